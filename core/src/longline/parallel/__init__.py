"""Several processes, and what each computes on: ranks, their launcher, the machine. Torch-free at import."""

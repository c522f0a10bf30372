"""Going on from a checkpoint: found and read, and what it was made by compared with the run that goes on. Torch-free at import."""

"""What adapters need beside peft: a start that changes the base, and merging into weights that are tied."""

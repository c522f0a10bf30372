"""A model for use, not for training: what a person named on the command line, its answers, and measures of it."""

"""A Longline plugin that fine-tunes a pruned model and keeps it pruned."""

__version__ = "0.1.0"

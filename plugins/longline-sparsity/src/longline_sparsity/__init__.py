"""A Longline plugin that fine-tunes a pruned model and keeps it pruned."""

"""A Longline plugin with state: an average of gradients, kept in checkpoints."""

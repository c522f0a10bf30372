"""A Longline plugin that changes what is saved: the average of the weights."""

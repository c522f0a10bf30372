"""A Longline plugin that raises an alert when the training loss stays above a limit."""

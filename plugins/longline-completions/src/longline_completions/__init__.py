"""A Longline plugin that keeps tables of the completions that a run was trained on, and shows them in the terminal."""

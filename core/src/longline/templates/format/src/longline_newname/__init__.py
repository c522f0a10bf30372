"""A Longline format that reads questions with their answers."""

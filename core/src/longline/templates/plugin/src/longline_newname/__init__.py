"""A Longline plugin that tells the lowest loss so far, and when it no longer falls."""

"""A model in memory, whoever loaded it: what it answers, the rows of its vocabulary, and where it stops writing."""

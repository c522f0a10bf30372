"""A Longline method with its own kind of row and trainer: several answers in order of quality."""

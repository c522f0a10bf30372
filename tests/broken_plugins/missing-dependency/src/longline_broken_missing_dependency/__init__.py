"""Wants a library that is not there; must be refused before it is imported."""

raise RuntimeError("imported in spite of its requirements")

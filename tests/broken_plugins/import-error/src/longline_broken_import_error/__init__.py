"""Fails when it is imported."""

from longline import Plugin


class BrokenPlugin(Plugin):
    """Never made: the module fails below."""


raise RuntimeError("libtracker.so: cannot open shared object file")

"""Misspells an argument."""

from longline import Plugin, hookimpl


class BrokenPlugin(Plugin):
    """Means metrics."""

    @hookimpl
    def on_evaluate(self, run: object, metrcs: object) -> None:
        """Never called."""

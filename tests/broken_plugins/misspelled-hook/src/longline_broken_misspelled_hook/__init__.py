"""Misspells a hook."""

from longline import Plugin, hookimpl


class BrokenPlugin(Plugin):
    """Means on_checkpoint."""

    @hookimpl
    def on_chekpoint(self, path: object) -> None:
        """Never called."""

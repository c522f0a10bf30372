"""Forgot to derive from Plugin."""


class BrokenPlugin:
    """Looks like a plugin, and is none."""

    def on_log(self, logs: dict[str, float]) -> None:
        """Never called."""

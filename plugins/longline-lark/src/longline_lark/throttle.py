"""Holds back alerts that repeat: a group that is flooded reads nothing."""

from __future__ import annotations

EVERY = 60.0
"""Seconds between two alerts with the same title."""
MAX_TITLES = 1000


class Throttle:
    """Remembers when each title was last let through, and how many were held back since."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def take(self, title: str, now: float) -> int | None:
        """Return how many were held back when this one may go, else None; `now` is a monotonic time in seconds."""
        if now - self._last.get(title, -EVERY) < EVERY:
            self._held[title] = self._held.get(title, 0) + 1
            return None
        if len(self._last) >= MAX_TITLES:  # titles with numbers in them
            self._last.clear()
            self._held.clear()
        self._last[title] = now
        return self._held.pop(title, 0)

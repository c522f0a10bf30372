"""What was told while a run went on, for its end and its manifest: a line that scrolled away is told once more."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from longline.hookspecs import hookimpl

if TYPE_CHECKING:
    from longline.events import Alert, AlertLevel

MOST = 100
"""How many alerts with different titles are kept; of more, titles that hold a number, only the count is."""


@dataclass(slots=True)
class Told:
    """Alerts of one level and title: how many, and what the last one said."""

    level: AlertLevel
    title: str
    text: str
    step: int | None
    count: int = 1


class Alerts:
    """Keeps the alerts of the main rank."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], Told] = {}
        self._more = 0

    @hookimpl
    def on_alert(self, alert: Alert) -> None:
        """Keep an alert, or count it with those of the same title."""
        key = (alert.level, alert.title)
        known = self._told.get(key)
        if known is None and len(self._told) >= MOST:
            self._more += 1
            return
        count = known.count + 1 if known else 1
        self._told[key] = Told(alert.level, alert.title, alert.text, alert.step, count)

    def as_list(self) -> list[dict[str, Any]]:
        """For the manifest."""
        more = [{"level": "info", "title": "more alerts", "text": "", "step": None, "count": self._more}] if self._more else []
        return [*map(asdict, self._told.values()), *more]

    def titles(self, level: AlertLevel) -> list[str]:
        """What was told at a level, with how often where it was more than once."""
        found = [told for told in self._told.values() if told.level == level]
        return [told.title + (f" ({told.count} times)" if told.count > 1 else "") for told in found]

"""The figures of spans: calls, seconds and the longest one, by name and by the span around it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

from longline.events import Timing

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

MAX_SPANS = 1000
"""Names that are made from data would fill memory and trackers: what comes beyond this many goes under one name."""
FURTHER = "(further names)"
WAITING = 1000
"""Spans of other threads wait to be told by the thread that runs the trainer; beyond this many the oldest are not told."""

Key = tuple[str, str | None]


@dataclass(slots=True)
class Stat:
    """The spans of one name inside one parent."""

    calls: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sums at one moment: calls and seconds by (name, parent); and the seconds of spans with no parent."""

    spans: dict[Key, tuple[int, float]]
    top: float

    def since(self, before: Snapshot) -> dict[Key, tuple[int, float]]:
        """What was added since an earlier snapshot; spans that did not occur since are left out."""
        added = {}
        for key, now in self.spans.items():
            then = before.spans.get(key, (0, 0.0))
            if now[0] > then[0]:
                added[key] = (now[0] - then[0], now[1] - then[1])
        return added


class Recorder:
    """Adds up spans of all threads; what it keeps grows with the number of names, not of spans.

    `min_seconds`: shorter spans are counted in `short` and otherwise left out. `tell` is handed a Timing of each span, always
    in the thread that made the recorder. `step` is the optimizer step that spans belong to; `annotate`, when set, makes the
    context manager that puts a name into a trace; `wait`, when set, waits for the device at both ends of a span.
    """

    def __init__(self, min_seconds: float = 0.0, tell: Callable[[Timing], None] | None = None) -> None:
        self.step: int | None = None
        self.short = 0
        self.annotate: Callable[[Any], AbstractContextManager[Any]] | None = None
        self.wait: Callable[[], None] | None = None
        self._min_seconds = min_seconds
        self._tell = tell
        self._untold: deque[Timing] = deque(maxlen=WAITING)
        self._thread = get_ident()
        self._lock = Lock()
        self._stats: dict[Key, Stat] = {}
        self._top = 0.0

    def add(self, name: str, parent: str | None, seconds: float, failed: bool = False, own: bool = True) -> None:
        """Take in one span. `own`: it was measured here, so that it is told, and not by somebody who told everybody already."""
        if seconds < self._min_seconds:
            self.short += 1
            return
        with self._lock:
            stat = self._stats.get((name, parent)) or self._open(name, parent)
            stat.calls += 1
            stat.seconds += seconds
            if seconds > stat.longest:
                stat.longest = seconds
            if failed:
                stat.failed += 1
        if own:
            if parent is None and get_ident() == self._thread:
                self._top += seconds
            if self._tell is not None:
                self._pass_on(Timing(name, seconds, self.step, parent, failed))

    def _open(self, name: str, parent: str | None) -> Stat:
        key = (name, parent) if len(self._stats) < MAX_SPANS else (FURTHER, None)
        return self._stats.setdefault(key, Stat())

    def _pass_on(self, timing: Timing) -> None:
        """Tell of a span; plugins need not be thread-safe, so what other threads measured waits for this one."""
        if get_ident() != self._thread:
            self._untold.append(timing)
            return
        tell = self._tell
        assert tell is not None  # noqa: S101 - the caller looked
        while self._untold:
            tell(self._untold.popleft())
        tell(timing)

    def stats(self) -> dict[Key, Stat]:
        """The sums so far by (name, parent), in the order in which spans first ended; the caller must not change them."""
        with self._lock:
            return dict(self._stats)

    def snapshot(self) -> Snapshot:
        """The sums so far, to measure a stretch of the run by the difference of two."""
        with self._lock:
            return Snapshot({key: (stat.calls, stat.seconds) for key, stat in self._stats.items()}, self._top)

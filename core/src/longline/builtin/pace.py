"""How fast something goes and how long it still takes, for whoever waits for it."""

from __future__ import annotations

import sys
from time import perf_counter

LIVE_SECONDS, PLAIN_SECONDS = 0.2, 30.0
"""How often a long wait is told of: on a terminal, where one line is written over, and elsewhere, where each is a line."""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class Pace:
    """Tokens a second between the last two log events, evaluations and checkpoints left out; and the time that is left, with them.

    `step` and `tokens` are what an earlier part of the run has made.
    """

    def __init__(self, step: int = 0, tokens: float = 0) -> None:
        self.tokens = 0.0
        self._step, self._count = step, tokens
        self._since = self._mark = self.begun = perf_counter()
        self._first: tuple[int, float] | None = None

    def stepped(self, step: int) -> None:
        """A step is done."""
        self._mark = perf_counter()
        self._first = self._first or (step, self._mark)  # it has to get everything going, and tells nothing of the rest

    def paused(self) -> None:
        """Something else than training is done, which began with the last event before it."""
        before, self._mark = self._mark, perf_counter()
        self._since += self._mark - before

    def logged(self, step: int, tokens: float | None) -> None:
        """A log event; one without a number of tokens is an evaluation or the like."""
        if tokens is None:
            return
        self._mark = perf_counter()
        if step > self._step and tokens >= self._count and self._mark > self._since:
            self.tokens = (tokens - self._count) / (self._mark - self._since)
        self._since, self._step, self._count = self._mark, step, tokens

    def left(self, step: int, steps: int) -> float | None:
        """Seconds from now, after `step`, until `steps` are done; None until there is something to tell it from."""
        if self._first is None or step <= self._first[0]:
            return None
        return (steps - step) * (perf_counter() - self._first[1]) / (step - self._first[0])


class Wait:
    """Tells on stderr how much of a long wait is over, which for a short one is never."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._live = sys.stderr.isatty()
        self._begun = self._told = perf_counter()

    def at(self, done: int) -> None:
        """So many are done."""
        now = perf_counter()
        if not done or now - self._told < (LIVE_SECONDS if self._live else PLAIN_SECONDS):
            return
        self._told = now
        left = duration((now - self._begun) / done * (self.total - done))
        text = f"{self.what} {done}/{self.total}, {left} left"
        sys.stderr.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
        sys.stderr.flush()

    def over(self) -> None:
        """Leave the line empty for what comes."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

"""Metrics as `pre_log` hands them out: a plugin may add some, and leaves alone what others have put there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn

OWN = frozenset({"step", "time"})
"""What every line of log.jsonl says beside the metrics; under these names one would take the line's own place."""


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as plain numbers. Raises TypeError for a value that is none."""
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: object, value: Any) -> float:
    if not isinstance(name, str):
        raise TypeError(f"a metric's name is text, and {name!r} is not")
    if name in OWN:
        raise TypeError(f"a metric cannot be called {name!r}, which every log event has of its own; call it something else")
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Real):
        return float(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of torch or numpy
        return _number(name, value.item())
    raise TypeError(f"the metric {name!r} is a {type(value).__name__}, not a number")


class Metrics(dict[str, float]):
    """Raises TypeError when a metric is changed or removed that was there at the last `seal`, or a value is no number."""

    def __init__(self, metrics: Mapping[str, float]) -> None:
        super().__init__(metrics)
        self._sealed = frozenset(metrics)

    def seal(self) -> None:
        """From here on all that is there now stays as it is: the next plugin's turn."""
        self._sealed = frozenset(self)

    def _refuse(self, name: object) -> NoReturn:
        raise TypeError(f"pre_log changed the metric {name!r}, which it did not add; add one under a name of its own")

    def __setitem__(self, name: str, value: float) -> None:
        if name in self._sealed:
            self._refuse(name)
        super().__setitem__(name, _number(name, value))

    def __delitem__(self, name: str) -> None:
        if name in self._sealed:
            self._refuse(name)
        super().__delitem__(name)

    def update(self, *others: Mapping[str, float] | Iterable[tuple[str, float]], **more: float) -> None:  # type: ignore[override]
        """Add metrics."""
        for name, value in dict(*others, **more).items():
            self[name] = value

    def __ior__(self, other: Any) -> Metrics:  # type: ignore[override, misc]
        self.update(other)
        return self

    def setdefault(self, name: str, value: float = 0.0) -> float:
        """Add a metric unless it is there."""
        if name not in self:
            self[name] = value
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """Take back a metric that the same call added."""
        if name in self._sealed:
            self._refuse(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, float]:
        """Refused: nobody knows which metric would go."""
        self._refuse(next(reversed(self), "any"))

    def clear(self) -> None:
        """Refused, unless there is nothing."""
        for name in list(self):
            del self[name]

"""Other trackers in the same run: what each of them costs, as measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline import Plugin, Run


@dataclass
class _Clock:
    """The time in a callback of transformers, which the account of hooks doesn't know."""

    name: str
    seconds: float = 0.0


@dataclass
class Beside:
    """The trackers beside `this` plugin: plugins that say so of themselves, and callbacks of transformers."""

    this: Plugin
    plugins: list[str] = field(default_factory=list)
    callbacks: list[_Clock] = field(default_factory=list)
    began: float = 0.0
    ended: float | None = None
    before: dict[str, float] = field(default_factory=dict)

    def find(self, run: Run, trainer: Any) -> None:
        """Look for them when training begins, and start to measure."""
        others = [plugin for plugin in run.plugins if plugin.instance is not self.this]
        self.plugins = [plugin.name for plugin in others if type(plugin.instance).tracker]
        self.callbacks = [_timed(callback) for callback in trainer.callback_handler.callbacks if _tracks(callback)]
        self.before = {row.plugin: row.seconds for row in run.account.rows()}
        self.began = perf_counter()

    def stop(self) -> None:
        """Training is over: what follows is not measured."""
        self.ended = perf_counter()

    def told(self, run: Run, own: str) -> str:
        """Name them with their share of the time since training began, in percent; an empty text when there are none."""
        elapsed = (self.ended or perf_counter()) - self.began
        if not (self.plugins or self.callbacks) or not self.began or elapsed <= 0:
            return ""
        account = {row.plugin: row.seconds - self.before.get(row.plugin, 0.0) for row in run.account.rows() if not row.core}
        others = {name: account.get(name, 0.0) for name in self.plugins} | {
            clock.name: clock.seconds for clock in self.callbacks
        }
        parts = ", ".join(f"{name} {100 * seconds / elapsed:.2g} %" for name, seconds in others.items())
        mine = f"{own} {100 * account.get(own, 0.0) / elapsed:.2g} %"
        return f"{parts} of the training time, {mine}; what both show is paid for twice: remove one of them"


def _tracks(callback: Any) -> bool:
    """Whether it is one of those that `report_to` adds, or swanlab's own."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(callback).__mro__}
    return any(
        name.startswith(("transformers.integrations.", "swanlab.integration.")) and name.endswith("Callback") for name in names
    )


def _timed(callback: Any) -> _Clock:
    """Measure the calls of one callback from here on."""
    clock = _Clock(type(callback).__name__)
    for name in dir(callback):
        if name.startswith("on_") and callable(getattr(callback, name)):
            setattr(callback, name, _measured(getattr(callback, name), clock))
    return clock


def _measured(method: Callable[..., Any], clock: _Clock) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            clock.seconds += perf_counter() - begin

    return call

"""Plugins that write down what a run does: every hook as a line, or every event as it is; and lines compared with a file."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from longline.events import Alert, Completions, Table, Timing
from longline.hookspecs import HookFacts, hook_facts, hookimpl
from longline.plugins import Plugin, PluginConfig

UPDATE_TRACES = "LONGLINE_UPDATE_TRACES"
"""Set this environment variable to 1 to write golden traces instead of comparing with them."""


class EveryHook(Plugin):
    """A plugin that answers every hook with `called`, which subclasses fill."""

    def called(self, hook: str, **arguments: Any) -> Any:
        """A hook was called; what this returns is what the plugin answers."""


def _answer(hook: str, facts: HookFacts) -> Callable[..., Any]:
    """Make the method of EveryHook for one hook; its signature names every argument of the specification."""

    def answer(self: EveryHook, **kwargs: Any) -> Any:
        return self.called(hook, **kwargs)

    answer.__name__ = hook
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in facts.arguments]
    answer.__signature__ = inspect.Signature([itself, *wanted])  # type: ignore[attr-defined]
    return hookimpl(answer)


for _name, _facts in hook_facts().items():
    setattr(EveryHook, _name, _answer(_name, _facts))


class HookRecorder(EveryHook):
    """A plugin that answers every hook, changes nothing, and writes down each call as one line in `calls`.

    A line is `hook(argument=value, ...)` without `run`. Values are summarised so that lines are the same in every run: numbers
    of steps, names and statuses as they are, a path by its name, a mapping of numbers by its sorted keys, an alert by level and
    title, completions and tables by what they are and how many, a timing by its name, everything else by its class.
    """

    def __init__(self, config: PluginConfig | None = None) -> None:
        super().__init__(config or PluginConfig())
        self.calls: list[str] = []

    def called(self, hook: str, **arguments: Any) -> None:
        """Write the line."""
        shown = [f"{name}={summarise(value)}" for name, value in arguments.items() if name != "run"]
        self.calls.append(f"{hook}({', '.join(shown)})")

    def hooks(self, *names: str) -> list[str]:
        """Return the lines of some hooks, in the order of calls."""
        return [line for line in self.calls if line.partition("(")[0] in names]


class MemoryTracker(Plugin):
    """A tracker that keeps what a run tells: `logs`, `evaluations`, `tables`, `alerts`, `timings`, `completions`, `status`.

    `logs` and `evaluations` are pairs of a step and its numbers, `completions` of a step and the event; the others are the events
    as they came. `status` is that of the run's end.
    """

    def __init__(self, config: PluginConfig | None = None) -> None:
        super().__init__(config or PluginConfig())
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.completions: list[tuple[int, Completions]] = []
        self.tables: list[Table] = []
        self.alerts: list[Alert] = []
        self.timings: list[Timing] = []
        self.status = ""

    def series(self, name: str) -> list[tuple[int, float]]:
        """The values of one metric, each with its step."""
        return [(step, logs[name]) for step, logs in self.logs if name in logs]

    @hookimpl
    def on_log(self, logs: Mapping[str, float], step: int) -> None:
        """Keep a log event."""
        self.logs.append((step, dict(logs)))

    @hookimpl
    def on_evaluate(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep an evaluation."""
        self.evaluations.append((step, dict(metrics)))

    @hookimpl
    def on_completions(self, completions: Completions, step: int) -> None:
        """Keep what a step was made of."""
        self.completions.append((step, completions))

    @hookimpl
    def on_table(self, table: Table) -> None:
        """Keep a table."""
        self.tables.append(table)

    @hookimpl
    def on_alert(self, alert: Alert) -> None:
        """Keep an alert."""
        self.alerts.append(alert)

    @hookimpl
    def on_timing(self, timing: Timing) -> None:
        """Keep a timing."""
        self.timings.append(timing)

    @hookimpl
    def on_run_end(self, status: str) -> None:
        """Keep how the run ended."""
        self.status = status


def summarise(value: object) -> str:
    """Return what a recorded line says of an argument; see HookRecorder."""
    if value is None or isinstance(value, (bool, int, str)):
        return str(value)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Alert):
        return f"{value.level}: {value.title}"
    if isinstance(value, Completions):
        return f"{len(value.rows)} {value.method} rows"
    if isinstance(value, Table):
        return f"{value.name}, {len(value.rows)} rows, step {value.step}"
    if isinstance(value, Timing):
        return value.name
    if isinstance(value, Mapping) and value and all(isinstance(item, (int, float)) for item in value.values()):
        return f"[{' '.join(sorted(map(str, value)))}]"
    if isinstance(value, type):
        return value.__name__
    return type(value).__name__


def assert_trace(actual: Sequence[str], golden: Path) -> None:
    """Compare recorded lines with the file `golden`, line by line; fails with the difference.

    With LONGLINE_UPDATE_TRACES=1 in the environment the file is written instead.
    """
    text = "".join(f"{line}\n" for line in actual)
    if os.environ.get(UPDATE_TRACES) == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
        return
    if not golden.exists():
        pytest.fail(f"there is no {golden}; {UPDATE_TRACES}=1 writes it")
    expected = golden.read_text(encoding="utf-8")
    if text != expected:
        lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), str(golden), "this run", lineterm="", n=2)
        pytest.fail("\n".join([*lines, f"{UPDATE_TRACES}=1 accepts this run"]), pytrace=False)

"""A plugin that takes tables, and a real run with a real bus that trains nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from longline import Completions, Plugin, PluginConfig, Table, hookimpl
from longline.plugins import LoadedPlugin
from longline_completions.config import CompletionsConfig
from longline_completions.plugin import CompletionsPlugin

Rows = list[dict[str, Any]]


def preference(step: int, count: int = 2) -> Rows:
    """The rows of a DPO step; margins rise with the steps."""
    return [
        {
            "prompt": f"How many hooks for line {step}.{index}?",
            "chosen": f"Take {step}.",
            "rejected": "I don't know.",
            "reward_chosen": step / 100,
            "reward_rejected": -index / 10,
            "margin": step / 100 + index / 10,
        }
        for index in range(count)
    ]


class Shown(Plugin):
    """Takes tables, as a tracker does, and refuses those that come after it closed."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.tables: list[Table] = []
        self.alerts: list[str] = []
        self.closed = False

    @hookimpl
    def on_run_start(self) -> None:
        self.closed = False

    @hookimpl
    def on_table(self, table: Table) -> None:
        assert not self.closed
        self.tables.append(table)

    @hookimpl
    def on_alert(self, alert: Any) -> None:
        self.alerts.append(f"{alert.level}: {alert.title}: {alert.text}")

    @hookimpl
    def on_run_end(self) -> None:
        self.closed = True

    def steps(self) -> list[list[int]]:
        """For each table the steps of its rows."""
        return [[row[0] for row in table.rows] for table in self.tables]


class Stage:
    """A real run that was never started: its bus, the plugin on it, and what a tracker saw."""

    def __init__(self, run_config: Callable[..., Any], options: dict[str, Any]) -> None:
        from longline.config.loader import load_config
        from longline.plan import Machine, build_plan
        from longline.plugins.run import State

        folder = options.pop("folder", None)
        loaded = load_config(run_config(**({"output_dir": str(folder)} if folder else {})))
        self.shown = Shown()
        plugin = CompletionsPlugin(CompletionsConfig.model_validate(options))
        plugins = [LoadedPlugin.of(plugin, "completions"), LoadedPlugin.of(self.shown, "shown")]
        self.state = State(loaded, build_plan(loaded.config, Machine()), plugins)
        self.run = self.state.view
        self.run.output_dir.mkdir(exist_ok=True)
        self.folder = self.run.output_dir / "completions"

    def begin(self, step: int = 0) -> None:
        """Training starts after this step."""
        trainer = SimpleNamespace(state=SimpleNamespace(global_step=step, max_steps=100))
        self.run.hook.on_train_begin(run=self.run, trainer=trainer)

    def step(self, step: int, rows: Rows, score: str = "margin", method: str = "dpo") -> None:
        """One optimizer step that used these rows."""
        hook = self.run.hook
        hook.on_completions(run=self.run, completions=Completions(method, tuple(rows), score), step=step)
        hook.on_step_end(run=self.run, step=step)

    def end(self) -> None:
        """Training is over."""
        self.run.hook.on_train_end(run=self.run, trainer=None)
        self.run.hook.on_run_end(run=self.run, status="completed", summary=self.run.summary)

    @property
    def failures(self) -> int:
        return self.run.account.failures


@pytest.fixture
def stage(run_config: Callable[..., Any]) -> Callable[..., Stage]:
    """Return a function that makes a Stage: `stage(every=2, sample="worst")`; `folder` is another run folder."""
    return lambda **options: Stage(run_config, options)


@pytest.fixture
def kit() -> Any:
    """The classes above, as test files cannot import this one."""
    return SimpleNamespace(Shown=Shown, preference=preference)

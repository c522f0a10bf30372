"""Where one plugin is tried: runs and commands with it by its name, what they said, and what they left behind."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline import Table, Timing, hookimpl
from longline.hookspecs import HookFacts, hook_facts
from longline.plugins import Bus, LoadedPlugin, Plugin, PluginConfig
from longline.testing.entries import name_of, plain
from longline.testing.running import Outcome, merged
from longline.testing.secrets import SHORTEST

if TYPE_CHECKING:
    from pydantic import BaseModel

    from longline import Run

STEPS = 4
BASE: Mapping[str, Any] = {
    "data": {"eval_fraction": 0.2},
    "trainer": {
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
    },
}
"""With evaluations and checkpoints, so that nearly every hook fires."""
PATIENCE = 1.0
"""Seconds that a thread or process may take to end after its run."""
VARIABLE = "LONGLINE_TESTING_SECRET_"
"""Where commands find a plugin's secrets, as a person has them in the environment: the saved config has them masked."""


class Peer(Plugin):
    """Another plugin beside the one that is tried: it raises what plugins raise for each other, some of it odd."""

    def __init__(self, config: PluginConfig | None = None) -> None:
        super().__init__(config or PluginConfig())

    @hookimpl
    def pre_log(self, logs: dict[str, float]) -> None:
        """A metric that is no number yet, as a mean over nothing."""
        logs["peer/nothing"] = float("nan")

    @hookimpl
    def on_step_end(self, run: Run, step: int) -> None:
        """Every event."""
        run.alert("läuft", "a text\nof two lines", "info")
        run.fact("peer", step, "it is there")
        for rows in ((("cod", 2.5), ("", None)), ()):
            run.hook.on_table(run=run, table=Table("peer", ("fish", "weight"), rows, step=step))
        run.hook.on_timing(run=run, timing=Timing("peer", 0.25, step))

    @hookimpl
    def on_train_end(self, run: Run) -> None:
        """An event after training."""
        run.log({"peer/score": 0.5})


class Bench:
    """Trains and commands with one plugin. `said` is what they wrote, `left` what they left running, by the run's name."""

    def __init__(
        self,
        plugin: type[Plugin],
        options: Mapping[str, Any],
        run_config: Callable[..., Path],
        run_longline: Callable[..., Outcome],
        folder: Path,
        overrides: Mapping[str, Any],
    ) -> None:
        self.plugin, self.options, self.name = plugin, dict(options), name_of(plugin)
        self._write, self._train, self.folder = run_config, run_longline, folder
        data = overrides.get("data") or {}
        base = {**BASE, "data": {}} if "eval" in data or "eval_rows" in overrides else BASE
        self.overrides = merged(base, overrides)
        self.said: list[str] = []
        self.left: dict[str, list[str]] = {}

    # --- the plugin -------------------------------------------------------------------------------------------------------------

    def made(self) -> Plugin:
        """A new instance."""
        return self.plugin(self.plugin.Config.model_validate(self.options))

    @cached_property
    def hooks(self) -> dict[str, HookFacts]:
        """The hooks that it answers."""
        listeners = Bus([LoadedPlugin.of(self.made(), self.name)]).listeners()
        return {name: facts for name, facts in hook_facts().items() if listeners[name]}

    @property
    def observes(self) -> bool:
        """Whether nothing that it answers may change a run."""
        return all(facts.kind == "observe" for facts in self.hooks.values()) and not self.made().claims

    @property
    def secrets(self) -> list[str]:
        """The values of its options that are secrets, and long enough to be looked for."""
        return [value for value in _secrets(self.made().config) if len(value) >= SHORTEST]

    @property
    def environment(self) -> dict[str, str]:
        """The secrets by the variables that configs name."""
        return {f"{VARIABLE}{number}": value for number, value in enumerate(self.secrets)}

    def entry(self) -> dict[str, Any]:
        """The plugin as a config has it."""
        names = {value: f"${{{name}}}" for name, value in self.environment.items()}
        return {self.name: _replaced(plain(self.options), names)}

    # --- runs and commands ------------------------------------------------------------------------------------------------------

    def config(self, name: str, plugins: list[Any] | None = None, **overrides: Any) -> Path:
        """A config of a run in a folder of that name, with the plugin."""
        content = merged(self.overrides, {**overrides, "output_dir": str(self.folder / name)})
        return self._write(**content, plugins=[self.entry()] if plugins is None else plugins)

    def train(self, name: str, *others: Plugin | LoadedPlugin, plugins: list[Any] | None = None, **flags: Any) -> Outcome:
        """Train with the plugin, or with `plugins` instead; `others` come after it."""
        with self._listening(name):
            return self._train(self.config(name, plugins), plugins=others, **flags)

    def command(self, *words: object) -> None:
        """Run a command in this process. Raises AssertionError when it fails, or when a hook failed in it."""
        from longline.cli import run_cli

        before = len(self.said)
        with self._listening(str(words[0])):
            status = run_cli([str(word) for word in words])
        told = self.said[before]
        if status or " failed in " in told:
            raise AssertionError(f"longline {' '.join(map(str, words))} ended with {status}:\n{told.strip()}")

    @contextmanager
    def _listening(self, name: str) -> Iterator[None]:
        """Keep what is written meanwhile, and write down what is left running afterwards."""
        import psutil

        threads, children = set(threading.enumerate()), set(psutil.Process().children(recursive=True))
        text = io.StringIO()
        handler = logging.StreamHandler(text)
        logging.getLogger().addHandler(handler)
        try:
            with redirect_stdout(text), redirect_stderr(text):
                yield
        finally:
            logging.getLogger().removeHandler(handler)
            self.said.append(text.getvalue())
            self.left[name] = _left(threads, children)


def _left(threads: set[threading.Thread], children: set[Any]) -> list[str]:
    """What runs that did not before; what is about to end gets the time for it. Daemons count: a notebook has many runs."""
    import psutil

    end = time.monotonic() + PATIENCE
    while True:
        left = [f"the thread {thread.name!r}" for thread in threading.enumerate() if thread not in threads]
        new = [child for child in psutil.Process().children(recursive=True) if child not in children]
        left += [f"the process {child.pid}" for child in new if child.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)


def _secrets(value: Any) -> Iterator[str]:
    """Every secret in options, at any depth."""
    if hasattr(value, "get_secret_value"):
        yield value.get_secret_value()
    elif hasattr(type(value), "model_fields"):
        model: BaseModel = value
        yield from (secret for _, item in model for secret in _secrets(item))
    elif isinstance(value, Mapping):
        yield from (secret for item in value.values() for secret in _secrets(item))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from (secret for item in value for secret in _secrets(item))


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

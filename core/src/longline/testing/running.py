"""Runs in a test: a config that trains in seconds, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longline.plugins import LoadedPlugin, Plugin
from longline.testing.entries import Given, by_name, known
from longline.testing.recorder import HookRecorder
from longline.testing.tiny import chat

if TYPE_CHECKING:
    from longline.run import RunResult

Rows = int | Sequence[Mapping[str, Any]]
"""Rows of data: a number of conversations, or the rows themselves."""


@pytest.fixture
def run_config(tmp_path: Path, tiny_model_dir: Path, chat_rows: Path) -> Callable[..., Path]:
    """Return a function that writes a config and returns its path.

    `run_config(trainer={"max_steps": 3}, plugins=["mine"])`: keywords are merged into a config that trains the tiny model on
    `chat_rows` in float32 for 5 steps of 2 rows on the CPU, logs every step and saves no checkpoints. None removes a key.

    `rows` and `eval_rows` are data: a number of conversations, or the rows themselves, such as `rows=preferences(8)`. With
    `eval_rows` the run evaluates every second step and at its end; those conversations are not among the training data.
    """

    def write(*, rows: Rows | None = None, eval_rows: Rows | None = None, **overrides: Any) -> Path:
        import yaml

        base = {
            "method": "sft",
            "model": {"path": str(tiny_model_dir), "dtype": "float32"},
            "data": {
                "train": [{"path": str(chat_rows), "format": "chat"}],
                "max_length": 128,
                "cache_dir": str(tmp_path / "cache"),
            },
            "trainer": {
                "max_steps": 5,
                "per_device_train_batch_size": 2,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_strategy": "no",
                "use_cpu": True,
            },
            "output_dir": str(tmp_path / "run"),
        }
        if rows is not None:
            base = merged(base, {"data": {"train": [_source(tmp_path, "rows", rows)]}})
        if eval_rows is not None:
            evaluates = {"trainer": {"eval_strategy": "steps", "eval_steps": 2}}
            base = merged(base, {"data": {"eval": [_source(tmp_path, "eval-rows", eval_rows, past=1000)]}, **evaluates})
        path = _new(tmp_path, "config", ".yaml")
        path.write_text(yaml.safe_dump(merged(base, overrides), sort_keys=False), encoding="utf-8")
        return path

    return write


def _source(folder: Path, name: str, rows: Rows, past: int = 0) -> dict[str, str]:
    """A source of a config for rows, in a file of their own; a number of them is of conversations from number `past` on."""
    found = chat(past + rows)[past:] if isinstance(rows, int) else rows
    path = _new(folder, name, ".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return {"path": str(path)}


def _new(folder: Path, name: str, suffix: str) -> Path:
    number = len(list(folder.glob(f"{name}*{suffix}")))
    return folder / f"{name}{number or ''}{suffix}"


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `overrides` put in, mapping by mapping; a None removes the key."""
    result = dict(base)
    for key, value in overrides.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


class Folder:
    """The folder of a run, and what stands in it."""

    output_dir: Path

    @property
    def log(self) -> list[dict[str, Any]]:
        """The events of log.jsonl."""
        text = (self.output_dir / "log.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads((self.output_dir / "run.json").read_text(encoding="utf-8"))
        return content


@dataclass(frozen=True)
class Outcome(Folder):
    """What a run in a test came to: its result, its folder, and every hook call in order."""

    result: RunResult
    output_dir: Path
    calls: list[str]

    def hooks(self, *names: str) -> list[str]:
        """Return the recorded lines of some hooks, in the order of calls."""
        return [line for line in self.calls if line.partition("(")[0] in names]


@pytest.fixture
def run_longline(run_config: Callable[..., Path], tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that trains in this process and returns an Outcome.

    `run_longline(plugins=[MyPlugin(options)], trainer={"max_steps": 3})`. `plugins` are instances, LoadedPlugin for a name
    or `on_error`, and what a config's `plugins` may list: names of installed ones, and mappings of names to options. A class, or a
    mapping of a class to options, is one that is not packaged: the config has it under its name, as if it was installed.

    `checkpoint=3` lets the run go on from a checkpoint of step 3 that a run without plugins left in its folder. `config` is the
    path of a config to use instead of writing one from the other keywords, which are those of `run_config`. A HookRecorder among
    the plugins, or as `recorder`, is the one that the Outcome is made of, for a run that raises. `resume` ("last", or the path of a
    checkpoint), `weights_only` and `overwrite` are those of `longline.run.train`. What the run raises comes through.
    """

    def run(
        config: Path | None = None,
        *,
        plugins: Sequence[Given] = (),
        recorder: HookRecorder | None = None,
        checkpoint: int | None = None,
        resume: str | None = None,
        weights_only: bool = False,
        overwrite: bool = False,
        **overrides: Any,
    ) -> Outcome:
        from longline.config.loader import load_config
        from longline.run import train

        recorder = recorder or next((plugin for plugin in plugins if isinstance(plugin, HookRecorder)), HookRecorder())
        named, classes = by_name(plugins)
        made = [
            plugin
            for plugin in (*(one for one in plugins if one is not recorder), recorder)
            if isinstance(plugin, (Plugin, LoadedPlugin))
        ]
        extra = [plugin if isinstance(plugin, LoadedPlugin) else LoadedPlugin.of(plugin) for plugin in made]
        if config is not None and (named or overrides):
            raise TypeError("a config of your own says all: give it the plugins' names and the other keywords")
        path = config or run_config(**overrides, **({"plugins": named} if named else {}))
        if checkpoint is not None:
            resume = resume or leave_checkpoint(path, checkpoint)
        with known(tmp_path / "entry-points", classes):
            loaded = load_config(path)
            result = train(loaded, resume=resume, weights_only=weights_only, overwrite=overwrite, plugins=extra)
        return Outcome(result, result.output_dir, recorder.calls)

    return run


def leave_checkpoint(config: Path, step: int) -> str:
    """Train without plugins up to a step, and stop with a checkpoint; returns its path."""
    from longline.config.loader import load_config
    from longline.run import train
    from longline.testing.faults import fail_at

    result = train(load_config(config, ["plugins=[]"]), plugins=[fail_at("on_step_end", step, "SIGINT")])
    return str(result.output_dir / f"checkpoint-{step}")

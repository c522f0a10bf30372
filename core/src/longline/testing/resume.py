"""Resumed equals uninterrupted: a run is stopped, gone on with, and compared with one that nothing stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longline.testing.entries import as_entry, surroundings, write_entry_points
from longline.testing.faults import fail_at
from longline.testing.ranks import RunFolder, run_ranks
from longline.testing.running import Folder, Outcome, merged

if TYPE_CHECKING:
    from longline.plugins import Plugin

TIMES = ("time", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
"""What log events tell of a clock: no two runs have it alike."""


@pytest.fixture
def assert_resume_equal(
    run_longline: Callable[..., Outcome], run_config: Callable[..., Path], tmp_path: Path
) -> Callable[..., None]:
    """Return a function that fails unless a run with a plugin, interrupted and resumed, is the run without an interruption.

    `assert_resume_equal(TidePlugin, {"every": 2}, at=3)`: a run of `at` + 2 steps is stopped by SIGINT at the end of step `at` and
    resumed from its checkpoint; final weights, log events and what plugins keep in the last checkpoint are compared with those of a
    run that nothing stopped, bit by bit. `ranks=2` does it with two ranks, where the faults of a plugin with state show.
    `ignore` names metrics that cannot be equal, or what they begin with, such as `profiling/`; other keywords go into the config.
    """

    def check(
        plugin: type[Plugin],
        options: Mapping[str, Any] | None = None,
        *,
        at: int = 2,
        ranks: int = 1,
        ignore: Sequence[str] = (),
        **overrides: Any,
    ) -> None:
        saving = {"trainer": {"max_steps": at + 2, "save_strategy": "steps", "save_steps": 1}}
        folder = tmp_path / f"resume-{len(list(tmp_path.glob('resume-*')))}"
        folder.mkdir()
        content = merged(saving, overrides)

        def made() -> Plugin:
            return plugin(plugin.Config.model_validate(dict(options or {})))

        def run(name: str, *faults: Any, **more: Any) -> Folder:
            return run_longline(plugins=[made(), *faults], **content, output_dir=str(folder / name), **more)

        whole: Folder
        parts: Folder
        if ranks > 1:
            name, _, entry = as_entry(made())
            write_entry_points(tmp_path / "entry-points", {name: plugin})
            config = run_config(**content, plugins=[{name: entry}]).rename(folder / "config.yaml")
            run_ranks(config, plugin.__module__, ranks, at, surroundings(tmp_path / "entry-points"))
            whole, parts = (RunFolder(folder / part) for part in ("whole", "parts"))
        else:
            whole = run("whole")
            run("parts", fail_at("on_step_end", at, "SIGINT"))
            parts = run("parts", resume="last")
        assert_same(whole, parts, at=at, last=at + 2, ignore=ignore)

    return check


def assert_same(whole: Folder, parts: Folder, *, at: int, last: int, ignore: Sequence[str] = ()) -> None:
    """Fail unless a run that was stopped at step `at` is, in weights, log and states of step `last`, the one that was not."""
    found = [*apart(whole, parts), *_logs(whole, parts, (*TIMES, *ignore)), *_states(whole, parts, last)]
    if found:
        told = "\n".join(f"  - {line}" for line in found)
        raise AssertionError(f"interrupted at step {at} and resumed, the run is not the one without interruption:\n{told}")


def apart(whole: Folder, parts: Folder) -> Iterator[str]:
    """How the final weights of two runs differ; nothing where they are the same bit by bit."""
    from safetensors.torch import load_file

    for path in sorted((whole.output_dir / "model").glob("*.safetensors")):
        other = load_file(parts.output_dir / "model" / path.name)
        apart = [name for name, weight in load_file(path).items() if not _same(weight, other.get(name))]
        if apart:
            yield f"weights: {len(apart)} of {len(other)} tensors differ, {apart[0]} among them"


def _logs(whole: Folder, parts: Folder, ignore: tuple[str, ...]) -> Iterator[str]:
    # The event at the end of a part tells of that part alone; an interrupted run has two of them.
    expected, found = (
        [_compared(event, ignore) for event in run.log if "train_runtime" not in event] for run in (whole, parts)
    )
    nothing: dict[str, Any] = {}
    for one, other in zip_longest(expected, found, fillvalue=nothing):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        if names:
            what = ", ".join(f"{name} {other.get(name)}, not {one.get(name)}" for name in names)
            yield f"log, step {one.get('step', other.get('step'))}: {what}"


def _compared(event: Mapping[str, Any], ignore: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if not name.startswith(ignore)}


def _states(whole: Folder, parts: Folder, step: int) -> Iterator[str]:
    """What plugins kept in the last checkpoint."""
    import torch

    expected, found = (
        {
            path.name: torch.load(path, weights_only=True)
            for path in (run.output_dir / f"checkpoint-{step}" / "plugins").glob("*")
        }
        for run in (whole, parts)
    )
    for name in sorted({*expected, *found}):
        if not _same(expected.get(name), found.get(name)):
            yield f"state {name.removesuffix('.pt')}: {found.get(name)}, not {expected.get(name)}"


def _same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)

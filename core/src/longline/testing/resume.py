"""Resumed equals uninterrupted: a run is stopped, gone on with, and compared with one that nothing stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longline.errors import EXIT_SIGINT
from longline.testing.faults import fail_at
from longline.testing.running import Folder, Outcome, merged

if TYPE_CHECKING:
    from longline.plugins import Plugin
    from longline.testing.process import Ended


@pytest.fixture
def assert_resume_equal(
    run_longline: Callable[..., Outcome], run_process: Callable[..., Ended], tmp_path: Path
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

        def run(name: str, *faults: Any, **more: Any) -> Folder:
            made = plugin(plugin.Config.model_validate(dict(options or {})))
            content = {**merged(saving, overrides), "output_dir": str(folder / name)}
            if ranks == 1:
                return run_longline(plugins=[made, *faults], **content, **more)
            ended = run_process(plugins=[made, *faults], ranks=ranks, **content, **more)
            if ended.code not in (0, EXIT_SIGINT):
                raise AssertionError(ended.text)
            return ended

        whole = run("whole")
        run("parts", fail_at("on_step_end", at, "SIGINT"))
        parts = run("parts", resume="last")
        found = [*_weights(whole, parts), *_logs(whole, parts, ("time", *ignore)), *_states(whole, parts, at + 2)]
        if found:
            told = "\n".join(f"  - {line}" for line in found)
            raise AssertionError(f"interrupted at step {at} and resumed, the run is not the one without interruption:\n{told}")

    return check


def _weights(whole: Folder, parts: Folder) -> Iterator[str]:
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

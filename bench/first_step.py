"""From the command to the first optimizer step: `longline train` beside `trl sft`, on the same model and rows.

    python bench/first_step.py [--full] [--shapes 7m smollm2] [--threads shipped equal] [--rounds 3] [--json FILE]

20,000 chat rows, packed to 512, one pack a step, float32, no checkpoints, on the CPU. What ends the clock is the same for both: the
moment when the line with the loss of step 1 leaves the process, whose output is a pipe that nothing buffers. `cold` starts with
empty data caches, `warm` with those of a run before; the disk cache is warm in both, after a round that is not counted. `shipped`
leaves the number of threads to each side, `equal` gives all cores to both. `--full` is all of these; a step of SmolLM2-135M itself
takes seconds. Needs trl.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from common import Goal, Result, cores, finish, in_turns, options, ratios, seconds_until, spread
from corpus import MAX_LENGTH, ROWS, model_folder, rows_file

BIN = Path(sys.executable).parent
GOAL = 0.75
MARKS = {"longline": "step 1/", "trl": "'loss':"}
"""What only the line of the first step has."""


@dataclass(frozen=True, slots=True)
class Start:
    """One thing that is measured."""

    shape: str
    threads: str
    caches: str
    side: str


def command(start: Start, folder: Path) -> list[str]:
    """What a person would type; two steps, so that neither side is told that the first one is the last."""
    model, rows = model_folder(start.shape), rows_file("chat", ROWS)
    if start.side == "longline":
        config = {
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"train": str(rows), "max_length": MAX_LENGTH, "packing": True, "cache_dir": str(folder / "prepared")},
            "trainer": {
                "max_steps": 2,
                "per_device_train_batch_size": 1,
                "learning_rate": 1e-4,
                "save_strategy": "no",
                "use_cpu": True,
                "bf16": False,
            },
            "output_dir": str(folder / "longline"),
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        return [str(BIN / "longline"), "train", str(folder / "config.yaml"), "--overwrite"]
    (folder / "rows").mkdir(exist_ok=True)
    link = folder / "rows" / "train.jsonl"
    if not link.exists():
        link.symlink_to(rows)
    fields: dict[str, Any] = {
        "model_name_or_path": model,
        "dtype": "float32",
        "dataset_name": folder / "rows",
        "packing": True,
        "assistant_only_loss": True,
        "max_length": MAX_LENGTH,
        "max_steps": 2,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-4,
        "gradient_checkpointing": False,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "output_dir": folder / "trl",
    }
    return [str(BIN / "trl"), "sft", *(part for name, value in fields.items() for part in (f"--{name}", str(value)))]


def seconds(start: Start, folder: Path) -> float:
    """Run a command to its end; returns when the loss of its first step was there."""
    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    if start.threads == "equal":
        environment["OMP_NUM_THREADS"] = str(cores())
    return seconds_until(MARKS[start.side], command(start, folder), environment)


def once(start: Start, kept: Path) -> float:
    """Measure with a folder of its own when caches are cold, and with that of the round before when they are warm."""
    if start.caches == "warm":
        folder = kept / f"{start.shape}-{start.threads}-{start.side}"
        folder.mkdir(exist_ok=True)
        return seconds(start, folder)
    with tempfile.TemporaryDirectory() as name:
        return seconds(start, Path(name))


def measure(shapes: Sequence[str], threads: Sequence[str], rounds: int) -> Result:
    """Seconds of both sides, and which part of trl's Longline takes."""
    starts = {" ".join(found): Start(*found) for found in product(shapes, threads, ("cold", "warm"), ("longline", "trl"))}
    for shape in shapes:
        model_folder(shape)
    rows_file("chat", ROWS)
    with tempfile.TemporaryDirectory() as kept:
        taken = in_turns(list(starts), rounds + 1, lambda name: once(starts[name], Path(kept)))
    taken = {name: values[1:] for name, values in taken.items()}
    rows, goals = [], []
    for name in (name for name, start in starts.items() if start.side == "longline"):
        start, peer = starts[name], name.replace("longline", "trl")
        part = ratios(taken[name], taken[peer])
        given = {"shape": start.shape, "threads": start.threads, "caches": start.caches}
        rows.append({**given, "longline_seconds": spread(taken[name]), "trl_seconds": spread(taken[peer]), "part": part})
        goals.append(Goal(f"{start.shape}, threads {start.threads}, caches {start.caches}", part["median"], GOAL, most=True))
    return Result("first_step", "From the command to the loss of the first step", rows, goals)


def main() -> int:
    """Measure, print and write; exit status 1 when Longline takes more than 0.75 of trl's time somewhere."""
    shapes, threads = ("7m", "smollm2"), ("shipped", "equal")
    given = options(
        __doc__,
        ("--rounds", {"type": int, "default": 3}),
        ("--full", {"action": "store_true", "help": "all shapes and threads"}),
        ("--shapes", {"nargs": "+", "choices": shapes, "default": shapes[:1]}),
        ("--threads", {"nargs": "+", "choices": threads, "default": threads[:1]}),
    )
    return finish(measure(*((shapes, threads) if given.full else (given.shapes, given.threads)), given.rounds), given.json)


if __name__ == "__main__":
    sys.exit(main())

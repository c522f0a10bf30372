"""How long a run over many rows takes to go on: from `longline train --resume` to the next optimizer step.

    python bench/resume.py [--full] [--json FILE]

A model of 7M weights trains on 10,000 short chats, with `--full` on a million, packed to 512, one pack a step, until a checkpoint.
Then the same command with `--resume` goes on from it, in turns with one that starts afresh and finds the same data prepared. The
clock runs from the command to the moment when the line with the loss of the next step leaves the process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Goal, Result, cache, finish, in_turns, options, ratios, seconds_until, spread
from corpus import MAX_LENGTH, model_folder
from data_growth import rows_files

COUNTS = (10_000, 1_000_000)
STEPS = 100
GOAL = 10
RESUMED, AFRESH = "resumed", "started afresh"


def until(mark: str, folder: Path, name: str, count: int, steps: int, *more: str) -> float:
    """Run `longline train` to its end; returns the seconds until a line with `mark` was there."""
    large, small = rows_files(count)
    config = {
        "model": {"path": str(model_folder("7m")), "dtype": "float32"},
        "data": {
            "train": [str(large), {"path": str(small), "weight": 2}],
            "max_length": MAX_LENGTH,
            "packing": True,
            "cache_dir": str(folder / "prepared"),
        },
        "trainer": {
            "max_steps": steps,
            "per_device_train_batch_size": 1,
            "learning_rate": 1e-4,
            "logging_steps": 1,
            "save_steps": STEPS,
            "use_cpu": True,
        },
        "output_dir": str(folder / name),
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    line = [sys.executable, "-m", "longline", "train", str(folder / "config.yaml"), *more]
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return seconds_until(mark, line, {**environment, "HF_HUB_OFFLINE": "1"})


def measure(count: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each side."""
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        folder = Path(name)
        first = until("step 1/", folder, "run", count, STEPS)
        checkpoint = str(folder / "run" / f"checkpoint-{STEPS}")
        sides = {
            RESUMED: lambda: until(f"step {STEPS + 1}/", folder, "run", count, STEPS + 2, "--resume", checkpoint),
            AFRESH: lambda: until("step 1/", folder, "other", count, 2, "--overwrite"),
        }
        found = in_turns(list(sides), rounds, lambda side: sides[side]())
    rows: list[dict[str, Any]] = [{"rows": count, "start": "data not prepared", "seconds": first}]
    for side, times in found.items():
        rows.append({"rows": count, "start": side, "seconds": spread(times)})
    rows[1]["times started afresh"] = ratios(found[RESUMED], found[AFRESH])
    return rows


def main() -> int:
    """Measure; exit status 1 when going on takes too long."""
    more = (("--full", {"action": "store_true", "help": "a million rows, too"}), ("--rounds", {"type": int, "default": 3}))
    chosen = options(__doc__, *more)
    result = Result("resume", "Going on with a run: from the command to the next step", [])
    for count in COUNTS if chosen.full else COUNTS[:1]:
        result.rows += measure(count, chosen.rounds)
        seconds = result.rows[-2]["seconds"]["median"]
        result.goals.append(Goal(f"{count} rows: seconds until a resumed run trains", seconds, GOAL, most=True))
    return finish(result, chosen.json)


if __name__ == "__main__":
    sys.exit(main())

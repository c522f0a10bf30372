"""What the plugin costs a step: runs with and without it alternate in one process, on the tiny model of the test kit.

    python plugins/longline-profiling/bench/step_time.py [STEPS]

A step of this model takes milliseconds, so that a cost would show; every step logs. `without` is there twice: the difference
between the two is the noise of the machine. The cost in microseconds is what counts: a real step is a hundred times longer.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import yaml

from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.testing import chat, write_tiny_model

REPEATS = 5


class Clock(Plugin):
    """Takes the time between the ends of two steps."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.times: list[float] = []

    @hookimpl
    def on_step_end(self) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def median_us(self) -> float:
        """The median step in microseconds; the first ten are left out."""
        return 1e6 * statistics.median(after - before for before, after in pairwise(self.times[10:]))


def run(folder: Path, name: str, steps: int, options: dict[str, object] | None) -> tuple[float, float]:
    """Train once; return the median step and the plugin's own time inside hooks at each step, in microseconds."""
    config = {
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl"), "max_length": 128, "cache_dir": str(folder / "cache")},
        "trainer": {
            "max_steps": steps,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "plugins": {} if options is None else {"profiling": options},
        "output_dir": str(folder / name),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        train(load_config(path), plugins=[LoadedPlugin.of(clock)])
    account = json.loads((folder / name / "run.json").read_text())["hooks"]["plugins"].get("profiling", {})
    return clock.median_us(), 1e6 * account.get("pre_log", {}).get("seconds", 0.0) / steps


def main() -> None:
    """Measure and print one line for each kind."""
    logging.disable(logging.WARNING)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    kinds: dict[str, dict[str, object] | None] = {"without": None, "with": {}, "every 10": {"log_interval": 10}}
    kinds |= {"enabled: false": {"enabled": False}, "without again": None}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "model")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat(64)))
        run(folder, "warm", 20, None)
        for repeat in range(REPEATS):
            for number, (kind, options) in enumerate(kinds.items()):
                found[kind].append(run(folder, f"{number}-{repeat}", steps, options))
    base = min(step for step, _ in found["without"])
    for kind, rows in found.items():
        best, inside = min(step for step, _ in rows), statistics.median(hook for _, hook in rows)
        sys.stdout.write(
            f"{kind:15} best median step {best:7.0f} us ({best - base:+5.0f} us); inside pre_log {inside:4.0f} us\n"
        )


if __name__ == "__main__":
    main()

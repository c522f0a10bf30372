"""What a step costs with messages to a server that is dead, against a run without the plugin.

    python plugins/longline-lark/bench/dead_server.py [STEPS]

The runs alternate in one process, on the tiny model of the test kit, so that a step is short and a cost would show. Every step
logs and asks three rules; every tenth raises an alert of its own. `refused` has nobody listening; `silent` takes the connection
and never answers. `without` is there twice: the difference between the two is the noise of the machine.
"""

from __future__ import annotations

import json
import logging
import socket
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from longline import Alert, Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.testing import chat, write_tiny_model
from longline_lark.config import LarkConfig
from longline_lark.plugin import LarkPlugin

REPEATS = 5
RULES = ("loss > 1000", "no improvement in loss for 1000 logs", "nan")


class Clock(Plugin):
    """Takes the time between the ends of two steps."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.times: list[float] = []

    @hookimpl
    def on_step_end(self) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def median_ms(self) -> float:
        """The median step in milliseconds; the first ten are left out."""
        times = self.times[10:]
        return 1000 * statistics.median(after - before for before, after in pairwise(times))


class Noise(Plugin):
    """Raises an alert at every tenth step, each with its own title."""

    @hookimpl
    def on_step_end(self, run: Any, step: int) -> None:
        """Raise it."""
        if step % 10 == 0:
            run.hook.on_alert(run=run, alert=Alert(f"step {step}", "nothing is wrong", step=step))


def run(folder: Path, name: str, steps: int, url: str | None) -> tuple[float, float, float]:
    """Train once; return the median step in ms, the plugin's own time per step in ms, and the seconds at the end of the run."""
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
        "output_dir": str(folder / name),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    clock = Clock()
    lark = []
    if url:
        options = LarkConfig.model_validate({"webhook_url": url, "secret": "unused", "timeout": 2, "rules": RULES})
        lark = [LoadedPlugin.of(LarkPlugin(options), "lark")]
    train(load_config(path), plugins=[*lark, LoadedPlugin.of(Noise(PluginConfig())), LoadedPlugin.of(clock)])
    manifest = json.loads((folder / name / "run.json").read_text())
    account = manifest["hooks"]["plugins"].get("lark", {})
    inside = sum(account[hook]["seconds"] for hook in ("on_log", "on_alert") if hook in account)
    return clock.median_ms(), 1000 * inside / steps, account.get("on_run_end", {}).get("seconds", 0.0)


def main() -> None:
    """Measure and print one line for each kind of server."""
    logging.disable(logging.WARNING)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/hook/bench"
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    silent = f"http://127.0.0.1:{listener.getsockname()[1]}/hook/bench"
    kinds = {"without": None, "refused": refused, "silent": silent, "without again": None}
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "model")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat(64)))
        run(folder, "warm", 20, None)
        for repeat in range(REPEATS):
            for kind, url in kinds.items():
                found[kind].append(run(folder, f"{kind}{repeat}", steps, url))
    base = min(step for step, _, _ in found["without"])
    for kind, rows in found.items():
        best = min(row[0] for row in rows)
        inside, end = (statistics.median(column) for column in list(zip(*rows, strict=True))[1:])
        line = f"{kind:13} best median step {best:.3f} ms ({1000 * (best - base):+.0f} us); inside the hooks "
        sys.stdout.write(f"{line}{1000 * inside:.0f} us a step; end of the run {end:.2f} s\n")


if __name__ == "__main__":
    main()

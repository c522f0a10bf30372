"""What a step costs with SwanLab beside it, against a run without: in mode local, and online with a server that falls silent.

    python plugins/longline-swanlab/bench/step_cost.py [STEPS]

The runs alternate in one process, on the tiny model of the test kit, so that a step is short and a cost would show. Every step
logs; every tenth raises an alert and a table of 32 rows. `without` is there twice: the difference between the two is the noise of
the machine. A whole core is less to the training while the process that talks to SwanLab is busy; on a step of some milliseconds
that shows, on one of half a second it does not.
"""

from __future__ import annotations

import json
import logging
import socket
import statistics
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from longline import Alert, Plugin, PluginConfig, Table, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.testing import chat, write_tiny_model
from longline_swanlab.config import SwanLabConfig
from longline_swanlab.plugin import SwanLabPlugin

REPEATS = 3
ROWS = tuple((f"How many hooks for {index} cod? " * 8, "Take seven. " * 20, 0.5 * index) for index in range(32))


class Clock(Plugin):
    """Takes the time between the ends of two steps."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.times: list[float] = []

    @hookimpl
    def on_step_end(self, run: Any, step: int) -> None:
        """Note the time, and raise what a tracker has to carry."""
        self.times.append(time.perf_counter())
        if step % 10 == 0:
            run.hook.on_alert(run=run, alert=Alert(f"step {step}", "nothing is wrong", step=step))
            run.hook.on_table(run=run, table=Table("completions", ("prompt", "completion", "reward"), ROWS, step))

    def steps_ms(self) -> tuple[float, float]:
        """Median and longest step in milliseconds; the first ten are left out."""
        steps = [1000 * (after - before) for before, after in pairwise(self.times[10:])]
        return statistics.median(steps), max(steps)


class Silent(BaseHTTPRequestHandler):
    """Lets the client in, and answers nothing that comes after."""

    def do_POST(self) -> None:
        """Answer what begins a run."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/login/api_key"):
            self._answer(
                200, {"sid": "s", "expiredAt": "2099-01-01T00:00:00.000Z", "userInfo": {"username": "me", "name": "Me"}}
            )
        elif self.path.endswith("/experiment"):
            self._answer(201, {**json.loads(body), "slug": "s"})
        else:
            time.sleep(300)

    def do_GET(self) -> None:
        """Answer with a project."""
        project = {"cuid": "p", "name": "bench", "version": 1, "group": {"username": "me"}, "path": "/me/bench"}
        self._answer(200, {**project, "_count": {"experiments": 0}})

    do_PUT = do_POST  # noqa: N815 - the name that http.server looks for

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def run(folder: Path, name: str, steps: int, options: dict[str, Any] | None) -> tuple[float, float, float]:
    """Train once; return the median and the longest step in ms, and the microseconds inside the plugin's hooks for each step."""
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
    clock, tracker = Clock(), []
    if options:
        chosen = SwanLabConfig.model_validate({"project": "bench", "log_dir": folder / "swanlog", "timeout": 4, **options})
        tracker = [LoadedPlugin.of(SwanLabPlugin(chosen), "swanlab")]
    train(load_config(path), plugins=[*tracker, LoadedPlugin.of(clock)])
    account = json.loads((folder / name / "run.json").read_text())["hooks"]["plugins"].get("swanlab", {})
    inside = sum(account[hook]["seconds"] for hook in ("on_log", "on_alert", "on_table") if hook in account)
    return (*clock.steps_ms(), 1e6 * inside / steps)


def main() -> None:
    """Measure and print one line for each kind of run."""
    logging.disable(logging.WARNING)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    kinds: dict[str, dict[str, Any] | None] = {
        "without": None,
        "local": {"mode": "local"},
        "silent server": {"api_host": f"http://127.0.0.1:{server.server_port}", "api_key": "k"},
        "no server": {"api_host": nobody, "api_key": "k"},
        "without again": None,
    }
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "model")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat(64)))
        run(folder, "warm", 20, None)
        for repeat in range(REPEATS):
            for kind, options in kinds.items():
                found[kind].append(run(folder, f"{kind}{repeat}".replace(" ", "-"), steps, options))
    base = min(step for step, _, _ in found["without"])
    for kind, rows in found.items():
        best, longest = min(row[0] for row in rows), min(row[1] for row in rows)
        inside = statistics.median(row[2] for row in rows)
        line = f"{kind:14} best median step {best:.3f} ms ({1000 * (best - base):+.0f} us), longest {longest:.1f} ms"
        sys.stdout.write(f"{line}; inside the hooks {inside:.0f} us a step\n")


if __name__ == "__main__":
    main()

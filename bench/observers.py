"""What the four observing plugins cost a DPO run, measured inside one run: blocks of steps with all of them, and with none.

    python bench/observers.py [--blocks N] [--json FILE]

Two processes of the same program differ by more than what is looked for, so one run switches the plugins off and on between blocks:
their answers leave the bus, and what longline-profiling has wrapped is unwrapped. Every third of the blocks has all plugins on; the
others have none, and stand against each other as the noise of the machine. SwanLab writes for its local dashboard, Lark's
messages go to a server in this process. The cost that is measured is compared with what the run's own hook account says.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from bus_share import write_model
from common import Goal, Result, finish, options

from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.hookspecs import hook_facts
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.testing import preferences

WARM_UP, BLOCK, GOAL_PERCENT = 4, 2, 0.7
KINDS = ("all", "none", "none again")
OBSERVERS = ("completions", "profiling", "swanlab", "lark")


class Turns(Plugin):
    """The last plugin: ends a block, takes its time, and switches the others for the next one."""

    def __init__(self, blocks: int) -> None:
        super().__init__(PluginConfig())
        order = random.Random(1)
        self.kinds = [kind for _ in range(blocks) for kind in order.sample(KINDS, len(KINDS))]
        self.times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.trainer: Any = None
        self.answers: dict[str, Any] = {}
        self.wrapped: list[tuple[dict[str, Any], str, Any]] = []
        self.on, self.begin, self.current = True, 0.0, ""

    @hookimpl
    def on_train_begin(self, trainer: Any) -> None:
        """Remember whose methods are wrapped."""
        self.trainer = trainer

    @hookimpl
    def on_step_end(self, run: Any, step: int) -> None:
        """End a block."""
        if step < WARM_UP or (step - WARM_UP) % BLOCK:
            return
        now = time.perf_counter()
        if self.current:
            self.times[self.current].append((now - self.begin) / BLOCK)
        if not self.kinds:
            self.switch(run, on=True)
            self.current = ""
            return
        self.current = self.kinds.pop(0)
        self.switch(run, on=self.current == "all")
        time.sleep(0.1)  # for what the last block left to other threads and processes
        self.begin = time.perf_counter()

    def switch(self, run: Any, *, on: bool) -> None:
        """Take the observers out of the bus and off the trainer, or put them back."""
        if on == self.on:
            return
        self.on = on
        self.trainer._heard = on  # whether rows are decoded for on_completions
        for name, call in vars(run.hook).items():
            if on:
                call._answers = self.answers[name]
            else:
                self.answers[name] = call._answers
                call._answers = tuple(answer for answer in call._answers if answer.name not in OBSERVERS)
        if on:
            for owner, name, function in self.wrapped:
                owner[name] = function
            self.wrapped = []
            return
        for thing in (self.trainer, self.trainer.accelerator, self.trainer.optimizer, self.trainer.optimizer.optimizer):
            for name, value in list(vars(thing).items()):
                if "longline_profiling" in getattr(getattr(value, "__code__", None), "co_filename", ""):
                    self.wrapped.append((vars(thing), name, vars(thing).pop(name)))


class Group(BaseHTTPRequestHandler):
    """Takes every message as Lark does."""

    def do_POST(self) -> None:
        """Answer 200."""
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = b'{"code":0,"data":{},"msg":"success"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def write_config(folder: Path, steps: int, logging_steps: int, url: str) -> Path:
    """The config of the run."""
    path = folder / "config.yaml"
    config = {
        "method": "dpo",
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {"train": [{"path": str(folder / "pairs.jsonl")}], "max_length": 128, "cache": False},
        "trainer": {
            "max_steps": steps,
            "per_device_train_batch_size": 6,
            "logging_steps": logging_steps,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "plugins": {
            "completions": {"every": 10},
            "profiling": {"mfu": False},
            "swanlab": {"project": "bench", "mode": "local", "log_dir": str(folder / "swanlog")},
            "lark": {"webhook_url": url, "secret": "not-a-secret", "rules": ["loss > 100", "nan"]},
        },
        "output_dir": str(folder / "run"),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def measure(blocks: int, logging_steps: int) -> dict[str, Any]:
    """Train once, with a server for Lark's messages."""
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    http = ThreadingHTTPServer(("127.0.0.1", 0), Group)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    turns = Turns(blocks)
    steps = WARM_UP + len(turns.kinds) * BLOCK + 1
    with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("w") as nowhere:
        folder = Path(name)
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            write_model(folder / "model")
            (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(600)))
            url = f"http://127.0.0.1:{http.server_port}/open-apis/bot/v2/hook/bench"
            train(load_config(write_config(folder, steps, logging_steps, url)), plugins=[LoadedPlugin.of(turns)])
        manifest = json.loads((folder / "run" / "run.json").read_text())
    http.shutdown()
    return figures(turns.times, manifest, logging_steps)


def figures(times: dict[str, list[float]], manifest: dict[str, Any], logging_steps: int) -> dict[str, Any]:
    """Medians over blocks, and the account's answer to the same question."""
    hooks = manifest["hooks"]["plugins"]
    repeated = {name for name, facts in hook_facts().items() if facts.repeated}
    on = hooks["completions"]["on_completions"]["calls"]  # once for each step with the plugins on
    account = {
        plugin: sum(cost["seconds"] for hook, cost in hooks[plugin].items() if hook in repeated) / on for plugin in OBSERVERS
    }
    account["core: rows"] = manifest["hooks"]["core"]["longline:rows"]["on_completions"]["seconds"] / on
    none = sorted(times["none"] + times["none again"])
    step = statistics.median(none)
    cost = statistics.median(times["all"]) - step
    noise = statistics.median(times["none"]) - statistics.median(times["none again"])
    return {
        "logging_steps": logging_steps,
        "blocks": len(times["all"]),
        "seconds_per_step": round(step, 4),
        "quartiles": [round(value, 4) for value in statistics.quantiles(none, n=4)[::2]],
        "cost_percent": round(100 * cost / step, 2),
        "cost_interval": [round(100 * value / step, 2) for value in interval(times["all"], none)],
        "noise_percent": round(100 * abs(noise) / step, 2),
        "account_percent": round(100 * sum(account.values()) / step, 3),
        "account_milliseconds_per_step": {name: round(1e3 * seconds, 3) for name, seconds in account.items()},
    }


def interval(more: list[float], less: list[float]) -> tuple[float, float]:
    """The middle 90 % of the difference of medians over resampled blocks (a bootstrap)."""
    rng = random.Random(2)
    found = sorted(
        statistics.median(rng.choices(more, k=len(more))) - statistics.median(rng.choices(less, k=len(less)))
        for _ in range(2000)
    )
    return found[100], found[-101]


def main() -> int:
    """Print the figures; exit status 1 when the account's share misses the goal, or the measured one surely does."""
    more = (
        ("--blocks", {"type": int, "default": 60, "help": f"blocks of {BLOCK} steps of each kind"}),
        ("--logging-steps", {"type": int, "default": 10, "help": "steps from one log event to the next; the default is 10"}),
    )
    chosen = options(__doc__, *more)
    found = measure(chosen.blocks, chosen.logging_steps)
    low, high = found["cost_interval"]
    parts = found.pop("account_milliseconds_per_step")
    rows: list[dict[str, Any]] = [{"plugin": name, "ms a step": value} for name, value in parts.items()]
    rows.append({"plugin": "all, by the account", "% of a step": found["account_percent"]})
    cost = {"median": found["cost_percent"], "low": low, "high": high}
    rows.append({"plugin": "all, measured (90 % interval)", "% of a step": cost})
    rows.append({"plugin": "noise: two halves without any", "% of a step": found["noise_percent"]})
    goals = [
        Goal("four plugins, % of a step by the account", found["account_percent"], GOAL_PERCENT, most=True),
        Goal("four plugins, % of a step as measured, lower end", low, GOAL_PERCENT, most=True),
    ]
    return finish(Result("observers", "Four observing plugins in a DPO run", rows, goals, found), chosen.json)


if __name__ == "__main__":
    sys.exit(main())

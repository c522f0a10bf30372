"""What the four observing plugins cost: a DPO run with all of them against the same run with none, block by block.

    python bench/observers.py [--blocks N] [--json]

Two processes train the same model on the same pairs and take turns: while one makes a block of steps, the other waits. So both see
the same machine, and its drift falls out of each pair of blocks. Every step logs; SwanLab writes for its local dashboard; Lark's
messages go to a server in this process. The cost that is measured is compared with what the run's own hook account says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from longline import Plugin, PluginConfig, hookimpl
from longline.testing import preferences, tiny_tokenizer

WARM_UP, BLOCK, GOAL_PERCENT = 4, 5, 0.7
SIDES = ("none", "all")


# --- a child: one run ------------------------------------------------------------------------------------------------------------


class Turns(Plugin):
    """Makes one block of steps each time it is told to, and says how long that took."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.begin = 0.0

    @hookimpl
    def on_step_end(self, step: int) -> None:
        """At the end of a block, tell and wait."""
        if step >= WARM_UP and (step - WARM_UP) % BLOCK == 0:
            print(json.dumps({"seconds": time.perf_counter() - self.begin, "step": step}), file=sys.__stdout__, flush=True)
            sys.stdin.readline()
            self.begin = time.perf_counter()


def child(config: str) -> None:
    """Train, with what the terminal would get thrown away."""
    from contextlib import redirect_stdout

    from longline.config.loader import load_config
    from longline.plugins import LoadedPlugin
    from longline.run import train

    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        train(load_config(Path(config)), plugins=[LoadedPlugin.of(Turns())])


# --- the parent -------------------------------------------------------------------------------------------------------------------


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


def write_model(folder: Path) -> None:
    """A random Llama of 9 million weights: a step of 8 pairs takes about half a second on two cores."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_config(folder: Path, side: str, blocks: int, url: str) -> Path:
    """The config of one side."""
    plugins = {
        "completions": {"every": 10},
        "profiling": {"mfu": False},
        "swanlab": {"project": "bench", "mode": "local", "log_dir": str(folder / "swanlog")},
        "lark": {"webhook_url": url, "secret": "not-a-secret", "rules": ["loss > 100", "nan"]},
    }
    path = folder / f"{side}.yaml"
    config = {
        "method": "dpo",
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {"train": [{"path": str(folder / "pairs.jsonl")}], "max_length": 128, "cache": False},
        "trainer": {
            "max_steps": WARM_UP + blocks * BLOCK,
            "per_device_train_batch_size": 6,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "plugins": plugins if side == "all" else {},
        "output_dir": str(folder / side),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def measure(blocks: int) -> dict[str, Any]:
    """Let both sides take turns."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Group)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(600)))
        url = f"http://127.0.0.1:{http.server_port}/open-apis/bot/v2/hook/bench"
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        runs = {side: start(write_config(folder, side, blocks, url)) for side in SIDES}
        for run in runs.values():
            told(run)  # warmed up
        for block in range(blocks):
            for side in SIDES if block % 2 else reversed(SIDES):
                run = runs[side]
                assert run.stdin is not None
                print(file=run.stdin, flush=True)
                times[side].append(told(run))
        for run in runs.values():
            run.communicate("\n" * 2)
        manifest = json.loads((folder / "all" / "run.json").read_text())
    http.shutdown()
    return figures(times, manifest)


def start(config: Path) -> subprocess.Popen[str]:
    """Start one side."""
    command = [sys.executable, __file__, "--child", str(config)]
    environ = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    )


def told(run: subprocess.Popen[str]) -> float:
    """Wait for the end of a block; what else a library prints is passed over."""
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith('{"seconds"'):
            return float(json.loads(line)["seconds"])
    raise SystemExit("a run ended early")


def figures(times: dict[str, list[float]], manifest: dict[str, Any]) -> dict[str, Any]:
    """Medians over blocks, and the account's answer to the same question."""
    from longline.hookspecs import hook_facts

    repeated = {name for name, facts in hook_facts().items() if facts.repeated}
    steps = manifest["summary"]["steps"]
    account = {
        plugin: sum(cost["seconds"] for hook, cost in hooks.items() if hook in repeated) / steps
        for plugin, hooks in manifest["hooks"]["plugins"].items()
        if plugin != "turns"
    }
    bus = manifest["hooks"]["bus_seconds"] / steps
    pairs = [100 * (more - less) / less for less, more in zip(times["none"], times["all"], strict=True)]
    step = statistics.median(times["none"]) / BLOCK
    quarters = statistics.quantiles(pairs, n=4)
    return {
        "blocks": len(pairs),
        "seconds_per_step": round(step, 3),
        "cost_percent": round(statistics.median(pairs), 2),
        "cost_percent_quartiles": [round(quarters[0], 2), round(quarters[2], 2)],
        "account_percent": round(100 * (sum(account.values()) + bus) / step, 3),
        "account_milliseconds_per_step": {name: round(1e3 * seconds, 3) for name, seconds in account.items()},
        "bus_milliseconds_per_step": round(1e3 * bus, 3),
    }


def main(arguments: list[str]) -> int:
    """Print the figures; exit status 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=24, help=f"blocks of {BLOCK} steps on each side")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child)
        return 0
    found = measure(options.blocks)
    if options.json:
        print(json.dumps(found))
    else:
        low, high = found["cost_percent_quartiles"]
        print(f"a step: {found['seconds_per_step']:.3f} s; {found['blocks']} pairs of blocks of {BLOCK} steps, taking turns")
        print(
            f"all four plugins on: {found['cost_percent']:+.2f} % of it (quartiles {low:+.2f} to {high:+.2f}; goal {GOAL_PERCENT})"
        )
        print(f"the hook account says: {found['account_percent']:.2f} % (goal: both below {GOAL_PERCENT})")
        for name, milliseconds in found["account_milliseconds_per_step"].items():
            print(f"  {name:<12} {milliseconds:.3f} ms a step")
        print(f"  the bus      {found['bus_milliseconds_per_step']:.3f} ms a step")
    return 0 if found["cost_percent"] < GOAL_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Peak memory and speed of sft without and with Liger's kernels, on a GPU: python plugins/longline-liger/bench/table.py --help.

Each line is a run in a process of its own, on the same text, so that nothing of one stays in the memory of the next.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

LAYERS = {"rope": True, "rms_norm": True, "glu_activation": True}
SIDES = {
    "plain": None,
    "layers": LAYERS,
    "fused loss": {"fused_linear_cross_entropy": True},
    "layers and fused loss": {**LAYERS, "fused_linear_cross_entropy": True},
}


def main() -> None:
    """Print a line for each side, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B", help="a folder or hub id")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("this table needs an NVIDIA GPU: torch finds no CUDA on this machine")
    if given.side:
        click.echo(json.dumps(measure(given)))
        return
    click.echo(f"{torch.cuda.get_device_name()}, {given.model}, {given.rows} x {given.length} tokens")
    click.echo(f"{'':24}{'peak GB':>10}{'tokens/s':>12}")
    for side in SIDES:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", folder]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            click.echo(f"{side:24}{done.stderr.strip().splitlines()[-1]}")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        click.echo(f"{side:24}{found['peak']:10.2f}{found['speed']:12.0f}")


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Train one side; the first half of the steps warms up, for the kernels are compiled then."""
    import time

    import torch

    from longline import Plugin, hookimpl
    from longline.config.loader import load_config
    from longline.plugins import LoadedPlugin
    from longline.run import train

    class Clock(Plugin):
        began = 0.0
        seconds = 0.0

        @hookimpl
        def on_step_end(self, step: int) -> None:
            torch.cuda.synchronize()
            if step == given.steps // 2:
                self.began = time.perf_counter()
            self.seconds = time.perf_counter() - self.began

    clock = Clock(Plugin.Config())
    path = config(given, Path(given.folder))
    torch.cuda.reset_peak_memory_stats()
    train(load_config(path), plugins=[LoadedPlugin.of(clock)])
    tokens = (given.steps - given.steps // 2) * given.rows * given.length
    return {"peak": torch.cuda.max_memory_allocated() / 1e9, "speed": tokens / clock.seconds}


def config(given: argparse.Namespace, folder: Path) -> Path:
    """Write rows that are long enough, and the config."""
    import yaml

    text = "The quick brown fox jumps over the lazy dog, line after line. " * (given.length // 4)
    rows = [{"text": f"{index} {text}"} for index in range(given.rows * 8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = {
        "method": "sft",
        "model": {"path": given.model, "dtype": "bfloat16"},
        "data": {
            "train": [{"path": str(folder / "rows.jsonl"), "format": "completion"}],
            "max_length": given.length,
            "packing": True,
            "cache_dir": str(folder / "cache"),
        },
        "trainer": {
            "max_steps": given.steps,
            "per_device_train_batch_size": given.rows,
            "save_strategy": "no",
            "logging_steps": 1000,
        },
        "plugins": {} if SIDES[given.side] is None else {"liger": SIDES[given.side]},
        "output_dir": str(folder / "run"),
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()

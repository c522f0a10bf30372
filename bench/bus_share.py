"""What the bus itself costs in a realistic run: its share of the training time, with six plugins that answer every hook.

    python bench/bus_share.py [--steps N] [--json FILE]

A random Llama of 9 million weights trains on this machine in steps of some tenths of a second, with a log event at each. The
figures are the run's own hook account: what plugins do is entered under them and is not the bus's time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from common import Goal, Result, finish, options

from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.testing import HookRecorder, chat, tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

PLUGINS, GOAL_PERCENT = 6, 0.1


def write_model(folder: Path) -> None:
    """A model whose step takes long enough to be a real one."""
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


def write_config(folder: Path, steps: int) -> Path:
    """Packs of 256 tokens, two at a time."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chat(600)))
    path = folder / "config.yaml"
    config = {
        "model": {"path": str(folder / "model")},
        "data": {"train": [{"path": str(rows), "format": "chat"}], "max_length": 256, "packing": True, "cache": False},
        "trainer": {
            "max_steps": steps,
            "per_device_train_batch_size": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "output_dir": str(folder / "run"),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def measure(steps: int) -> dict[str, float | int]:
    """Train, and read the account from the manifest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        plugins = [LoadedPlugin.of(HookRecorder(), f"recorder{number}") for number in range(PLUGINS)]
        train(load_config(write_config(folder, steps)), plugins=plugins)
        manifest = json.loads((folder / "run" / "run.json").read_text())
    total, hooks = manifest["summary"]["train_seconds"], manifest["hooks"]
    calls = sum(_calls(side) for side in (hooks["plugins"], hooks["core"]))
    return {
        "steps": steps,
        "seconds_per_step": round(total / steps, 3),
        "plugins": PLUGINS,
        "calls_per_step": round(calls / steps, 1),
        "bus_microseconds_per_step": round(1e6 * hooks["bus_seconds"] / steps, 1),
        "bus_percent_of_training": round(100 * hooks["bus_seconds"] / total, 4),
    }


def _calls(side: Mapping[str, Mapping[str, Mapping[str, int]]]) -> int:
    return sum(cost["calls"] for hooks in side.values() for cost in hooks.values())


def main() -> int:
    """Print the share; exit status 1 when it is 0.1 % or more."""
    chosen = options(__doc__, ("--steps", {"type": int, "default": 40}))
    with redirect_stdout(sys.stderr):  # the run tells of itself
        row = measure(chosen.steps)
    share = Goal("the bus, % of training", row["bus_percent_of_training"], GOAL_PERCENT, most=True)
    return finish(Result("bus_share", "The bus in a run with six plugins", [row], [share]), chosen.json)


if __name__ == "__main__":
    sys.exit(main())

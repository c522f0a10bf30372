"""A whole step of supervised fine-tuning on a model with a large vocabulary: peak memory and tokens a second.

    python plugins/longline-cce/bench/step.py                                   # CPU, float32
    python plugins/longline-cce/bench/step.py --device cuda --dtype bfloat16

The model is a random Llama of 4 layers with a vocabulary of 131072; the rows are 512 random tokens, all learnt, 4 at a time. The
sides are longline as it is, longline with this plugin, and trl's SFTTrainer, which computes its loss in chunks too. Each repeat
is a process of its own, in turns. Peak memory on a CPU is the high-water mark of the resident memory of the process, libraries
and weights included; on CUDA `torch.cuda.max_memory_allocated`. Tokens a second leave out the first two steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from click import echo

LENGTH, BATCH, SIZE = 512, 4, 256
SIDES = ("longline", "longline + cce", "trl")


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Write the model, a tokenizer and the rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from longline.testing import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=SIZE,
        intermediate_size=4 * SIZE,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        **marks,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(getattr(torch, args.dtype)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    ids = torch.randint(10, len(tokenizer) - 10, (BATCH * (args.steps + 1), LENGTH)).tolist()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What both trainers are given."""
    return {
        "max_steps": args.steps,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": args.device == "cpu",
        "bf16": False,
    }


def run_longline(folder: Path, args: argparse.Namespace, plugins: list[str]) -> list[float]:
    """Train, and return when each step ended."""
    import yaml

    from longline import Plugin, hookimpl
    from longline.config.loader import load_config
    from longline.plugins import LoadedPlugin, PluginConfig
    from longline.run import train

    ends: list[float] = []

    class Clock(Plugin):
        @hookimpl
        def on_step_end(self) -> None:
            ends.append(time.perf_counter())

    config = {
        "method": "sft",
        "model": {"path": str(folder / "model"), "dtype": args.dtype},
        "data": {
            "train": [{"path": str(folder / "rows.jsonl"), "format": "tokenized", "train_on": "all"}],
            "max_length": LENGTH,
            "cache_dir": str(folder / "cache"),
        },
        "trainer": arguments(args),
        "plugins": plugins,
        "output_dir": tempfile.mkdtemp(dir=folder) + "/run",
    }
    path = folder / f"{os.getpid()}.yaml"
    path.write_text(yaml.safe_dump(config))
    train(load_config(path), plugins=[LoadedPlugin.of(Clock(PluginConfig()))])
    return ends


def run_trl(folder: Path, args: argparse.Namespace) -> list[float]:
    """The same with trl's SFTTrainer."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(dir=folder), report_to="none", disable_tqdm=True, max_length=LENGTH, **arguments(args)
    )
    SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, args.dtype)),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Clock()],
    ).train()
    return ends


def child(side: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train in this process."""
    import torch

    torch.set_num_threads(args.threads)
    plugins = ["cce"] if side.endswith("cce") else []
    ends = run_trl(folder, args) if side == "trl" else run_longline(folder, args, plugins)
    seconds = (ends[-1] - ends[1]) / (len(ends) - 2)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else resident
    return {"peak": peak / 2**20, "rate": BATCH * LENGTH / seconds}


def table(args: argparse.Namespace) -> None:
    """Race the sides, and print medians and spans."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    given = [f"--{name}={getattr(args, name)}" for name in ("vocabulary", "steps", "threads", "device", "dtype")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args)
        for _ in range(args.repeats):
            for side in SIDES:
                command = [sys.executable, __file__, *given, f"--side={side}", f"--folder={folder}"]
                environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTORCH_ALLOC_CONF": ""}
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode:
                    raise SystemExit(f"{side}: {done.stderr[-2000:]}")
                found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
    echo(f"vocabulary {args.vocabulary}, {BATCH} rows of {LENGTH} tokens, {args.dtype}, {args.device}, {args.repeats} repeats")
    echo("| side | peak MiB (span) | tokens/s (span) |\n| --- | ---: | ---: |")
    for side, runs in found.items():
        cells = []
        for key in ("peak", "rate"):
            values = [run[key] for run in runs]
            cells.append(f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})")
        echo(f"| {side} | {cells[0]} | {cells[1]} |")


def main() -> None:
    """Read the command line; a child answers with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("vocabulary", 131072), ("steps", 5), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        echo(json.dumps(child(args.side, args.folder, args)))
    else:
        table(args)


if __name__ == "__main__":
    main()

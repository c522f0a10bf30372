"""How many steps until sums that were never seen are right, with Grokfast and without: the claim of its paper, tried.

    OMP_NUM_THREADS=1 python bench/grokfast.py [--seeds 3] [--jobs 2] [--plot FILE] [--json FILE]

Sums modulo a prime, `a + b =`: half of them are trained on, the others are held out. Each run is `longline train` on a random model
of one layer, and both sides are the same but for the plugin. There are two settings. `late` is the paper's: embeddings begin as
torch begins them, and Adam adds the decay of weights to gradients, so that sums are known by heart long before they are understood.
`early` is what a config says that says nothing: AdamW, the small random weights of transformers, gradients that are clipped. It
counts steps and not seconds, so it may run beside other work: some ten minutes of one core. Needs longline-grokfast, and matplotlib
for the plot.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import yaml

PRIME = 47
RIGHT = 0.95
EVERY = 100
SIDES: dict[str, dict[str, Any]] = {"without": {}, "grokfast": {"grokfast": {"alpha": 0.98, "lamb": 2.0}}}
TRAINER = {
    "per_device_train_batch_size": 128,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    "adam_beta2": 0.98,
    "logging_steps": 100000,
    "save_strategy": "no",
    "use_cpu": True,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "late": {"max_steps": 8000, "weight_decay": 0.005, "max_grad_norm": 0},
    "early": {"max_steps": 4000, "weight_decay": 0.1},
}
"""The trainer's fields that differ; `late` has another beginning and another optimizer too."""


@dataclass
class Found:
    """One run: the share of held-out sums that were right after so many steps, and when nearly all were; None when never."""

    setting: str
    side: str
    seed: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    steps: int | None = None

    @property
    def limit(self) -> int:
        """How many steps there were at most."""
        return int(SETTINGS[self.setting]["max_steps"])


def sums(seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Trained and held-out sums as tokens: a, plus, b, equals, sum."""
    every = [[a, PRIME, b, PRIME + 1, (a + b) % PRIME] for a in range(PRIME) for b in range(PRIME)]
    random.Random(seed).shuffle(every)
    return every[: len(every) // 2], every[len(every) // 2 :]


def write_model(folder: Path, setting: str, seed: int) -> None:
    """A random Llama of one layer over the numbers, with a tokenizer of as many words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [*map(str, range(PRIME)), "+", "=", "<end>", "<pad>"]
    split = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=split, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    end = {"bos_token_id": None, "eos_token_id": len(words) - 2, "pad_token_id": len(words) - 1, "max_position_embeddings": 16}
    spread = 0.07 if setting == "late" else 0.02  # as torch begins its linear layers, and as transformers does
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), initializer_range=spread, **shape, **end))
    if setting == "late":
        torch.nn.init.normal_(model.get_input_embeddings().weight)
    model.save_pretrained(folder)


def plugin(found: Found, held_out: list[list[int]]) -> Any:
    """A plugin that counts right sums now and then, and ends the run when nearly all are; for `late`, with the paper's Adam."""
    import torch
    from transformers import TrainerCallback

    from longline import Plugin, PluginConfig, hookimpl

    tokens = torch.tensor(held_out)

    class Measure(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            if state.global_step % EVERY:
                return
            with torch.no_grad():
                said = model(tokens[:, :-1], logits_to_keep=1).logits[:, -1].argmax(-1)
            found.curve.append((state.global_step, float((said == tokens[:, -1]).float().mean())))
            if found.curve[-1][1] >= RIGHT:
                found.steps, control.should_training_stop = state.global_step, True

    class Sums(Plugin):
        @hookimpl
        def post_trainer_create(self, trainer: Any) -> None:
            trainer.add_callback(Measure())

        @hookimpl
        def provide_optimizer(self, trainer: Any, model: Any) -> Any:
            if found.setting != "late":
                return None
            matrices = [weight for weight in model.parameters() if weight.dim() > 1]
            norms = [weight for weight in model.parameters() if weight.dim() == 1]
            groups = [{"params": matrices, "weight_decay": trainer.args.weight_decay}, {"params": norms}]
            return torch.optim.Adam(groups, lr=trainer.args.learning_rate, betas=(0.9, trainer.args.adam_beta2))

    return Sums(PluginConfig())


def run(job: tuple[str, str, int]) -> Found:
    """Train one side with one seed; the same seed has the same model, sums and order of rows on every side."""
    from longline.config.loader import load_config
    from longline.plugins import LoadedPlugin
    from longline.run import train

    found = Found(*job)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained, held_out = sums(found.seed)
        write_model(folder / "model", found.setting, found.seed)
        rows = ({"input_ids": row, "labels": [-100] * 4 + row[4:]} for row in trained)
        (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = {
            "method": "sft",
            "model": {"path": str(folder / "model"), "dtype": "float32"},
            "data": {
                "train": [{"path": str(folder / "sums.jsonl"), "format": "tokenized"}],
                "cache_dir": str(folder / "cache"),
            },
            "trainer": {**TRAINER, **SETTINGS[found.setting], "seed": found.seed},
            "plugins": SIDES[found.side],
            "output_dir": str(folder / "run"),
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        train(load_config(folder / "config.yaml"), plugins=[LoadedPlugin.of(plugin(found, held_out), "sums")])
    print(f"{' '.join(map(str, job))}: {found.steps} steps, {found.curve[-1][1]:.0%} right", file=sys.stderr, flush=True)
    return found


def lines(results: list[Found]) -> Iterator[str]:
    """A table: after how many steps nearly all held-out sums were right, for each seed, and the median."""
    seeds = sorted({found.seed for found in results})
    yield f"| setting | side | {' | '.join(f'seed {seed}' for seed in seeds)} | median |"
    yield f"|---|---|{'---:|' * (len(seeds) + 1)}"
    for setting in SETTINGS:
        for side in SIDES:
            mine = [found for found in results if (found.setting, found.side) == (setting, side)]
            told = [f"{found.steps:,}" if found.steps else f"{found.limit:,} and {found.curve[-1][1]:.0%}" for found in mine]
            middle = median(found.steps or found.limit + 1 for found in mine)
            yield f"| {setting} | {side} | {' | '.join(told)} | {f'{middle:,.0f}' if middle <= mine[0].limit else 'never'} |"


def plot(results: list[Found], path: Path) -> None:
    """Right sums over steps: axes for each setting, a colour for each side, a line for each seed."""
    from plots import COLOURS, _figure, _save

    figure, axes = _figure(8.0, len(SETTINGS))
    for axis, setting in zip(axes[0], SETTINGS, strict=True):
        for colour, side in zip(COLOURS[1::-1], SIDES, strict=True):
            for found in (found for found in results if (found.setting, found.side) == (setting, side)):
                label = {"label": side} if found.seed == 0 else {}
                axis.plot(*zip((0, 0.0), *found.curve, strict=True), color=colour, linewidth=1.2, **label)
        axis.axhline(RIGHT, color="grey", linewidth=0.6, linestyle="--")
        axis.set_title({"late": "late: the paper's setting", "early": "early: transformers' defaults"}[setting])
        axis.set_xlabel("steps")
        axis.set_ylim(0, 1.02)
    axes[0][0].set_ylabel("held-out sums that are right")
    axes[0][1].legend(frameon=False, loc="lower right")
    _save(figure, path)


def main() -> int:
    """Run every side of every setting with every seed, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    parser.add_argument("--json", type=Path, help="write it into this file")
    chosen = parser.parse_args()
    jobs = [(setting, side, seed) for setting in SETTINGS for seed in range(chosen.seeds) for side in SIDES]
    with get_context("spawn").Pool(chosen.jobs, maxtasksperchild=1) as pool:
        results = pool.map(run, jobs, chunksize=1)
    print("\n".join(lines(results)))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(found) for found in results]) + "\n", encoding="utf-8")
    if chosen.plot:
        plot(results, chosen.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

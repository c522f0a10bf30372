"""`longline new PATH`: a commented config to start from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

import click

from longline.errors import ConfigError, Problem

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_DATA = "train.jsonl"

STARTER = Template(
    """\
# A Longline config. `longline check $path` finds mistakes, `longline preview $path` shows what is learnt,
# `longline train $path` trains. Any value can be changed for one run: --set trainer.learning_rate=1e-4
# An environment variable is read with a dollar sign and braces around its name.

$method

model:
  path: $model
  # a local folder, a .gguf file, or a hub id
  # dtype: auto                    # auto, float32, bfloat16, float16
  # attn_implementation: sdpa      # sdpa, eager, flash_attention_2 ...; left out: the best that the model has

adapter:                           # without this section all weights are trained
  type: lora                       # lora, dora, rslora
  r: 16
  lora_alpha: 32
  # any field of peft.LoraConfig

data:
  train:
    - path: $data
      format: auto                 # $formats
  # eval:
  #   - path: eval.jsonl
  eval_fraction: 0.05              # without eval: this share of the rows is set aside
  max_length: 1024                 # tokens
$rest

plugins: []                        # `longline plugins` lists what is installed

output_dir: $output
"""
)

COMMON = """\
  num_train_epochs: 1
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 4
  learning_rate: $rate
  lr_scheduler_type: cosine
  warmup_steps: 0.03               # below 1: a share of all steps"""
PAIRS = "preference: prompt, chosen, rejected"


@dataclass(frozen=True, slots=True)
class Starter:
    """What differs between the methods' configs: what each is, its rows, what comes before the trainer's fields and after."""

    what: str
    formats: str
    trainer: str
    before: str = ""
    rate: str = "2.0e-4"
    more: str = ""

    def rest(self) -> str:
        """The lines from the end of `data` to the end of `trainer`."""
        head = f"{'' if self.before else chr(10)}trainer:                           # any field of {self.trainer}"
        parts = (self.before, head, COMMON.replace("$rate", self.rate), self.more)
        return "\n".join(part for part in parts if part)


STARTERS = {
    "sft": Starter(
        "supervised fine-tuning",
        "chat, alpaca, prompt_completion, completion, segments, tokenized",
        "transformers.TrainingArguments",
        before="  packing: true                    # several samples in one row, isolated from each other\n",
    ),
    "dpo": Starter("direct preference optimisation", PAIRS, "trl.DPOConfig", "", "2.0e-5", "  beta: 0.1"),
    "kto": Starter(
        "answers with a label each", "unpaired: prompt, completion, label", "trl.KTOConfig", "", "2.0e-5", "  beta: 0.1"
    ),
    "orpo": Starter("preferences by odds ratio", PAIRS, "trl.experimental.orpo.ORPOConfig", "", "2.0e-5", "  beta: 0.1"),
    "cpo": Starter("contrastive preferences", PAIRS, "trl.experimental.cpo.CPOConfig", "", "2.0e-5", "  beta: 0.1"),
    "simpo": Starter(
        "preferences without a reference",
        PAIRS,
        "trl.experimental.cpo.CPOConfig",
        "",
        "2.0e-5",
        "  beta: 2.0\n  simpo_gamma: 1.0",
    ),
    "reward": Starter("a model that scores answers", PAIRS, "trl.RewardConfig", "", "1.0e-4"),
    **{
        method: Starter(
            "the policy answers, reward functions score",
            "prompts: prompt, and columns for the reward functions",
            f"trl.{method.upper()}Config",
            "\nrewards:                           # installed ones, or package.module:function\n  - reasoning_gym\n",
            "1.0e-5",
            "  num_generations: 4               # answers to each prompt\n  max_completion_length: 256",
        )
        for method in ("grpo", "rloo")
    },
}


@click.command("new")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(list(STARTERS)), default="sft", show_default=True, help="How to train.")
@click.option("--data", metavar="PATH", help=f"What to train on: a file, a folder, a hub id. Default: {DEFAULT_DATA}.")
@click.option("--model", metavar="PATH", help=f"A folder, a .gguf file or a hub id. Default: {DEFAULT_MODEL}.")
def command(path: Path, method: str, data: str | None, model: str | None) -> int:
    """Write a commented config to PATH; a file that exists is left alone."""
    if path.exists():
        hint = f"name a file in it: {path / 'config.yaml'}" if path.is_dir() else "name another file"
        raise ConfigError(f"{path} exists; `new` never overwrites", hint=hint)
    _refuse_missing(data)
    values = {"model": model or DEFAULT_MODEL, "data": data or DEFAULT_DATA, "output": f"runs/{path.stem}"}
    starter = STARTERS[method]
    own = {"method": f"{f'method: {method}':<34} # {starter.what}", "formats": starter.formats, "rest": starter.rest()}
    text = STARTER.substitute(path=path, **own, **{name: _scalar(value) for name, value in values.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    click.echo(f"wrote {path}; next: longline check {path}")
    return 0


def _refuse_missing(data: str | None) -> None:
    from longline.config.checks import missing_data

    fault = missing_data(data) if data else None
    if fault:
        raise ConfigError([Problem(fault[0], where="--data", hint=fault[1])])


def _scalar(text: str) -> str:
    """The text as a YAML scalar, quoted unless it plainly is a path."""
    text = text.replace("${", "$${")
    plain = re.fullmatch(r"[\w.~-]*/[\w./~-]+|[A-Za-z][\w-]*\.[a-z]+", text)
    return text if plain else json.dumps(text, ensure_ascii=False)

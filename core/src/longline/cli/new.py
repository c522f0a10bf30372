"""`longline new`: a commented config to start from, or a distribution of your own."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import click

from longline.cli import scaffold
from longline.cli.options import ShortGroup, write_new
from longline.config import doors
from longline.config.method import GROUP as METHODS
from longline.config.method import find, names
from longline.config.sections import Config
from longline.errors import ConfigError, Problem

if TYPE_CHECKING:
    from longline.methods.base import Method

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

$plugins

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


def _rest(method: Method) -> str:
    """The lines from the end of `data` to the end of `trainer`."""
    own = method.starter
    before = f"{own.before}\n\n" if own.before else ""
    heading = f"{before}trainer:                           # any field of {method.arguments_name}"
    after = f"{own.data}\n" if own.data else ""
    return "\n".join(part for part in (f"{after}\n{heading}", COMMON.replace("$rate", own.learning_rate), own.more) if part)


class NewGroup(ShortGroup):
    """`new PATH` is short for `new config PATH`."""

    usual = "config"


@click.group("new", cls=NewGroup, subcommand_metavar="[config] PATH | plugin NAME | method NAME | format NAME")
def command() -> None:
    """Write a commented config to start from; or a plugin, a method or a format of your own, as a distribution with its tests."""


# --- a config -----------------------------------------------------------------------------------------------------------------


@command.command("config")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(names()),
    default=Config.model_fields["method"].default,
    show_default=True,
    help="How to train.",
)
@click.option("--data", metavar="PATH", help=f"What to train on: a file, a folder, a hub id. Default: {DEFAULT_DATA}.")
@click.option("--model", metavar="PATH", help=f"A folder, a .gguf file or a hub id. Default: {DEFAULT_MODEL}.")
def config_command(path: Path, method: str, data: str | None, model: str | None) -> int:
    """Write a commented config to PATH; a file that exists is left alone."""
    if path.exists():
        hint = f"name a file in it: {path / 'config.yaml'}" if path.is_dir() else "name another file"
        raise ConfigError(f"{path} exists; `new` never overwrites", hint=hint)
    _refuse_missing(data)
    values = {"model": model or DEFAULT_MODEL, "data": data or DEFAULT_DATA, "output": f"runs/{path.stem}"}
    asked = find(method)
    own = {
        "method": f"{f'method: {method}':<34} # {asked.summary}",
        "formats": asked.starter.formats,
        "rest": _rest(asked),
        "plugins": asked.starter.plugins,
    }
    text = STARTER.substitute(path=path, **own, **{name: _scalar(value) for name, value in values.items()})
    write_new(path, {path: text})
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


# --- a distribution -------------------------------------------------------------------------------------------------------------

KINDS = {
    "plugin": ("longline", "A plugin: options, a hook, state, and their tests.", "plugins: [{name}]"),
    "method": (METHODS, "A method of training: fields of `trainer:`, a loss, and their tests.", "method: {name}"),
    "format": ("longline.formats", "A format of rows, and its tests.", "format: {name}"),
}
"""What can be begun: the group of its entry points, what it is, and how a config names it."""


def _beginning(kind: str) -> click.Command:
    _, summary, use = KINDS[kind]

    @command.command(kind, help=f"{summary} It is written into a new folder, longline-NAME, and passes its tests as it is.")
    @click.argument("name")
    @click.option("--path", type=click.Path(path_type=Path), metavar="FOLDER", help="The folder. Default: ./longline-NAME.")
    def begin(name: str, path: Path | None) -> int:
        name = name.removeprefix("longline-")
        if fault := scaffold.wrong(name):
            raise ConfigError(f"{name!r} cannot be the name of a {kind}: {fault}")
        if owner := _owner(kind, name):
            raise ConfigError(
                f"{owner} has a {kind} called {name!r}", hint="choose another name: only one of them could be used"
            )
        path = path or Path(f"longline-{name.replace('_', '-')}")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists; `new` never overwrites", hint="name another folder with --path")
        files = {path / place: text for place, text in scaffold.written(kind, name)}
        write_new(path, files)
        click.echo(
            f"wrote {path}, {len(files)} files; next:\n  cd {shlex.quote(str(path))}\n  python -m pip install -e '.[dev]'"
        )
        click.echo(f"  python -m pytest\nthen, in a config: {use.format(name=name)}")
        return 0

    return begin


def _owner(kind: str, name: str) -> str | None:
    """Which distribution has such a name already, be it here or published."""
    from longline.plugins.discovery import PUBLISHED

    entries = doors.offers(KINDS[kind][0]).get(name)
    if entries:
        return doors.distribution(entries[0])
    return f"longline-{name}" if kind == "plugin" and name in PUBLISHED else None


for _kind in KINDS:
    _beginning(_kind)

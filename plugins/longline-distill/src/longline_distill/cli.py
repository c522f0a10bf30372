"""`longline distill record`: what a teacher says of a config's data, once and for all."""

from __future__ import annotations

from pathlib import Path

import click

from longline.cli.options import config_options
from longline.errors import ConfigError


@click.group("distill")
def command() -> None:
    """Make data to distil from."""


@command.command("record")
@click.argument("model")
@config_options
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), required=True, help="The Parquet file.")
@click.option(
    "--top-k", type=click.IntRange(1, 4096), default=20, show_default=True, help="How many likeliest tokens are kept."
)
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Of the distribution."
)
@click.option("--split", type=click.Choice(["train", "eval"]), default="train", show_default=True, help="Which rows.")
@click.option("--batch-tokens", type=click.IntRange(1), default=4096, show_default=True, help="Tokens at the same time.")
def record_command(
    model: str,
    config: Path,
    overrides: tuple[str, ...],
    path: Path,
    top_k: int,
    temperature: float,
    split: str,
    batch_tokens: int,
) -> None:
    """Ask MODEL about the data of CONFIG, and write its likeliest tokens beside the rows' own.

    Rows are prepared as training would have them, each for itself. A recording that is cut off goes on with the same command.
    """
    from longline.config.loader import load_config
    from longline.inference.target import find_target, load_weights, load_words
    from longline.run import prepare
    from longline_distill.record import Made, record

    if path.exists():
        raise ConfigError(f"{path} exists; nothing is overwritten", hint="choose another file, or remove it")
    loaded = load_config(config, (*overrides, "data.packing=false"))
    _, tokenizer, data = prepare(loaded, "preprocess")
    dataset = data.train if split == "train" else data.eval
    if dataset is None:
        raise ConfigError(f"{config} has no data to evaluate on", hint="--split train")
    target = find_target(model, "evaluate")
    own = load_words(target)
    words, other = tokenizer.get_vocab(), own.get_vocab()
    if any(other.get(word) != number for word, number in words.items()):
        raise ConfigError(f"the tokenizer of {model} is another one than that of {config}", hint="take a teacher of its family")
    if top_k >= len(words):
        raise ConfigError(f"--top-k {top_k}: the tokenizer has {len(words)} tokens", hint="record fewer")
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = loaded.config.model.dtype  # as a teacher in the process has it
    made = Made(model, data.report.fingerprint + split, top_k, temperature, dtype)
    for done in record(dataset, load_weights(target, own, dtype), len(tokenizer), made, path, batch_tokens):
        click.echo(f"{done:,} of {len(dataset):,} rows", err=True)
    click.echo(f"wrote {path}; to learn from it:")
    click.echo(f"  data: {{train: [{{path: {path}, format: tokenized}}]}}")
    click.echo(f"  plugins: {{distill: {{column: teacher, layout: recorded, top_k: {top_k}, temperature: {temperature:g}}}}}")

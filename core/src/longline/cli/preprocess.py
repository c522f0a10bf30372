"""`longline preprocess`: read, tokenise, mask, pack and cache the data of a config, so that training starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longline.cli.options import config_options, load

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from longline.config.sections import Config
    from longline.data import Prepared


@click.command("preprocess")
@config_options
def command(config: Path, overrides: tuple[str, ...]) -> None:
    """Prepare the data of CONFIG and print the account of it.

    What is prepared is kept in the cache (data.cache_dir, LONGLINE_CACHE, or the user's cache folder); `longline train` with
    the same data, options and tokenizer takes it from there. No model is loaded.
    """
    from longline.data.summary import summary

    _, data = prepared(load(config, overrides).config)
    for line in summary(data.report):
        click.echo(line)


def prepared(config: Config) -> tuple[PreTrainedTokenizerBase, Prepared]:
    """Load the tokenizer and prepare the data as training would."""
    from longline.data import prepare
    from longline.model import load_tokenizer
    from longline.plan import Machine, build_plan

    plan = build_plan(config, Machine())
    tokenizer = load_tokenizer(config.model)
    return tokenizer, prepare(config.data, tokenizer, layout=plan.layout, seed=plan.seed)

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
    from longline.data.kinds import Kind


@click.command("preprocess")
@config_options
def command(config: Path, overrides: tuple[str, ...]) -> None:
    """Prepare the data of CONFIG and print the account of it.

    What is prepared is kept in the cache (data.cache_dir, LONGLINE_CACHE, or the user's cache folder); `longline train` with
    the same data, options and tokenizer takes it from there. No model is loaded.
    """
    from longline.data.summary import summary

    _, _, data = prepared(load(config, overrides).config)
    for line in summary(data.report):
        click.echo(line)


def prepared(config: Config) -> tuple[Kind, PreTrainedTokenizerBase, Prepared]:
    """Load the tokenizer and prepare the data as training would."""
    from longline.data import prepare
    from longline.data.kinds import load as load_kind
    from longline.model import load_tokenizer
    from longline.plan import Machine, build_plan

    plan = build_plan(config, Machine())
    tokenizer, kind = load_tokenizer(config.model), load_kind(plan.kind)
    return kind, tokenizer, prepare(config.data, tokenizer, kind=kind, packing=plan.packing, seed=plan.seed)

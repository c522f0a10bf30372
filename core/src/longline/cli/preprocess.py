"""`longline preprocess`: read, tokenise, mask, pack and cache the data of a config, so that training starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longline.cli.options import config_options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("preprocess")
@config_options
def command(config: Path, overrides: tuple[str, ...]) -> None:
    """Prepare the data of CONFIG and print the account of it.

    What is prepared is kept in the cache (data.cache_dir, LONGLINE_CACHE, or the user's cache folder); `longline train` with
    the same data, options and tokenizer takes it from there. No model is loaded.
    """
    from longline.config.loader import load_config
    from longline.data.summary import summary
    from longline.run import prepare

    _, _, data = prepare(load_config(config, overrides), "preprocess")
    for line in summary(data.report):
        click.echo(line)

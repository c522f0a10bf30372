"""`longline schema`: the JSON schema of a config, with the methods and the options of all installed plugins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from longline.plugins import PluginInfo


@click.command("schema")
def command() -> int:
    """Print the JSON schema of a config, with the methods and the options of all installed plugins.

    \b
    Let an editor complete and check a config:
        longline schema > longline.schema.json
    and as the first line of the config:
        # yaml-language-server: $schema=longline.schema.json
    """
    from longline.config.method import usable
    from longline.config.schema import build_schema
    from longline.plugins import option_models

    def note(info: PluginInfo, why: str) -> None:
        click.echo(f"left out: {info.label}: {why}", err=True)

    methods = usable(lambda why: click.echo(f"left out: {why}", err=True))
    click.echo(json.dumps(build_schema(option_models(note), methods), indent=2, ensure_ascii=False))
    return 0

"""`longline lark test`: send one message, to see that webhook, secret and network are right."""

from __future__ import annotations

import os
from pathlib import Path

import click

from longline.cli.options import ConfigPath, set_option
from longline_lark.config import LarkConfig


@click.group("lark")
def command() -> None:
    """Messages to a Lark or Feishu group."""


@command.command("test")
@click.argument("config", required=False, type=ConfigPath(), metavar="[CONFIG]")
@set_option
def test_command(config: Path | None, overrides: tuple[str, ...]) -> int:
    """Send one message, with the options of CONFIG or else with LARK_WEBHOOK_URL and LARK_SECRET alone.

    Exit status: 0 delivered, 2 the config is wrong, 3 not delivered, with the reason.
    """
    from longline import LonglineError
    from longline.errors import ConfigError, PluginError
    from longline_lark import credentials
    from longline_lark.messages import test_card
    from longline_lark.webhook import Webhook

    if config is None and overrides:
        raise ConfigError("--set changes a config, and none is given", hint="longline lark test CONFIG --set ...")
    options = _options(config, overrides) if config else LarkConfig()
    try:
        found = credentials.find(options, os.environ)
    except LonglineError as error:
        raise PluginError(error.message, hint=error.hint) from None
    if found.secret is None:
        click.echo(f"warning: {credentials.UNSIGNED}", err=True)
    webhook = Webhook(found)
    answer = webhook.post(test_card(options, found.mask).payload(), options.timeout)
    if answer.outcome != "delivered":
        raise PluginError(f"not delivered: {answer.reason}", hint=answer.remedy or "try again, or check network and proxy")
    click.echo(f"delivered to {webhook.host}: look into the group")
    return 0


def _options(config: Path, overrides: tuple[str, ...]) -> LarkConfig:
    """Read the plugin's options from a config; raises ConfigError when there are none or they are wrong."""
    from pydantic import ValidationError

    from longline.config.loader import load_config
    from longline.errors import ConfigError

    loaded = load_config(config, overrides, data_files=False)
    for entry in loaded.config.plugins:
        if entry.name == "lark":
            try:
                return LarkConfig.model_validate(entry.options)
            except ValidationError as error:
                raise ConfigError(loaded.explain(error, LarkConfig, "plugins", "lark")) from None
    raise ConfigError(f"{config} does not name the plugin lark", hint="add it under plugins:, or leave the config out")

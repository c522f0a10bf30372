"""`longline check CONFIG`: every mistake of a config at once, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longline.cli.options import config_options
from longline.errors import EXIT_CONFIG, EXIT_PLUGIN, ConfigError, PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from longline.config.loader import LoadedConfig
    from longline.errors import Problem
    from longline.plugins import LoadedPlugin


@click.command("check")
@config_options
def command(config: Path, overrides: tuple[str, ...]) -> int:
    """Report every mistake of CONFIG: sections, trainer and adapter fields, plugins and their options, missing files.

    CONFIG is a file or a run folder. Neither a model nor data is opened. Exit status: 0 all is well, 2 the config is wrong,
    3 a plugin cannot be used.
    """
    from longline.config.loader import in_order, read_config
    from longline.plugins import load_plugins

    try:
        loaded, problems = read_config(config, overrides)
    except ConfigError as error:
        loaded, problems = None, error.problems
    plugins: list[LoadedPlugin] = []
    refused: list[Problem] = []
    failure: PluginError | None = None
    if loaded is not None:
        try:
            plugins = load_plugins(loaded)
            refused = [] if problems else _refused(loaded, plugins)
        except ConfigError as error:
            problems = in_order([*problems, *error.problems])
        except PluginError as error:
            failure = error
    if problems:
        _tell(config, problems)
        if failure:
            click.echo(f"error: {failure}", err=True)
        return EXIT_CONFIG
    if loaded is None or failure:
        raise failure or ConfigError(f"{config} cannot be read")
    if refused:
        _tell(config, refused)
        return EXIT_PLUGIN
    click.echo(f"ok: {config}: {', '.join(_facts(loaded, plugins))}")
    return 0


def _tell(config: Path, problems: Sequence[Problem]) -> None:
    for line in [*problems, f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {config}"]:
        click.echo(line, err=True)


def _refused(loaded: LoadedConfig, plugins: Sequence[LoadedPlugin]) -> list[Problem]:
    """What plugins refuse, by a plan for this machine that is made without torch."""
    if not plugins:
        return []
    from longline.config.loader import in_order
    from longline.parallel.machine import quick_machine
    from longline.plan import build_plan
    from longline.plugins import plugin_problems

    plan = build_plan(loaded.config, quick_machine(use_cpu=bool(loaded.config.trainer.get("use_cpu"))))
    return in_order(plugin_problems(loaded, plan, plugins))


def _facts(loaded: LoadedConfig, plugins: list[LoadedPlugin]) -> list[str]:
    """What was checked, in a few words each."""
    config = loaded.config
    adapter = f" with {config.adapter.type} r={config.adapter.r}" if config.adapter else ""
    train = " and ".join(source.path for source in config.data.train[:3])
    more = len(config.data.train) - 3
    evaluation = "none for evaluation"
    if config.data.eval:
        evaluation = f"{' and '.join(source.path for source in config.data.eval[:3])} for evaluation"
    elif config.data.eval_fraction is not None:
        evaluation = f"{config.data.eval_fraction:g} of the rows for evaluation"
    return [
        f"method {config.method}",
        f"model {config.model.path}{adapter}",
        f"data {train}{f' and {more} more' if more > 0 else ''} ({evaluation})",
        f"{len(config.trainer)} trainer field{'' if len(config.trainer) == 1 else 's'}",
        f"plugins {' '.join(plugin.name for plugin in plugins)}" if plugins else "no plugins",
    ]

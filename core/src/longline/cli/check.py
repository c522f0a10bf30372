"""`longline check CONFIG`: every mistake of a config at once, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    found = examine(config, overrides)
    if found.problems:
        _tell(config, found.problems)
        if found.failure:
            click.echo(f"error: {found.failure}", err=True)
        return EXIT_CONFIG
    if found.loaded is None or found.failure:
        raise found.failure or ConfigError(f"{config} cannot be read")
    if found.refused:
        _tell(config, found.refused)
        return EXIT_PLUGIN
    click.echo(f"ok: {config}: {', '.join(_facts(found.loaded, found.plugins))}")
    return 0


@dataclass
class Examined:
    """A config as far as it could be read: its own problems, those that plugins see in it, and a plugin that cannot be used."""

    loaded: LoadedConfig | None = None
    plugins: list[LoadedPlugin] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    refused: list[Problem] = field(default_factory=list)
    failure: PluginError | None = None


def examine(config: Path, overrides: tuple[str, ...]) -> Examined:
    """Find every mistake of a config."""
    from longline.config.loader import in_order, read_config
    from longline.plugins import load_plugins

    found = Examined()
    try:
        found.loaded, problems = read_config(config, overrides)
        found.problems = list(problems)
    except ConfigError as error:
        found.problems = error.problems
    if found.loaded is not None:
        try:
            found.plugins = load_plugins(found.loaded)
            found.refused = [] if found.problems else _refused(found.loaded, found.plugins)
        except ConfigError as error:
            found.problems = in_order([*found.problems, *error.problems])
        except PluginError as error:
            found.failure = error
    return found


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

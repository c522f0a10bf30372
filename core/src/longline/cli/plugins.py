"""`longline plugins`: list installed plugins from metadata alone, or import one and show it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import click

from longline.cli.options import ConfigPath, ShortGroup, set_option
from longline.errors import EXIT_PLUGIN, ConfigError, PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from longline.config.sections import PluginEntry
    from longline.plugins import Plugin, PluginInfo
    from longline.plugins.discovery import Fault


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("plugins", cls=ShortGroup, subcommand_metavar="[CONFIG] | show NAME")
def command() -> None:
    """List installed plugins; with CONFIG also which are enabled, or why not. `show NAME` tells all about one.

    Listing reads metadata alone: no plugin is imported. Exit status 3 when CONFIG names a plugin that cannot be used.
    """


# --- list ---------------------------------------------------------------------------------------------------------------------


@command.command("list")
@click.argument("config", required=False, type=ConfigPath(), metavar="[CONFIG]")
@set_option
@json_option
def list_command(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """List name, version, distribution and summary; with CONFIG the status of each too. The same as without `list`."""
    from longline.plugins import installed

    infos = installed()
    # From metadata alone: listing must work when a plugin is broken.
    rows = [row for info in infos.values() for row in (_facts(info), *_rivals(info))]
    unusable: list[str] = []
    if config is not None:
        rows, unusable = _with_status(infos, _entries(config, overrides, infos))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        columns = ["name", "version", "distribution", "summary", *(["status"] if config is not None else [])]
        _echo_columns(columns, [[row[column] for column in columns] for row in rows])
    else:
        click.echo("no plugin is installed; pip install longline-NAME adds one")
    return EXIT_PLUGIN if unusable else 0


def _facts(info: PluginInfo) -> dict[str, str]:
    return {"name": info.name, "version": info.version, "distribution": info.distribution, "summary": info.summary}


def _rivals(info: PluginInfo) -> Iterator[dict[str, str]]:
    """Further distributions that offer the same name, which none of them can be used by."""
    for rival in info.rivals:
        distribution, _, version = rival.rpartition(" ")
        text = f"offers the same name as {info.distribution}; pip uninstall one of them"
        yield {"name": info.name, "version": version, "distribution": distribution, "summary": text}


def _entries(config: Path, overrides: tuple[str, ...], infos: dict[str, PluginInfo]) -> list[PluginEntry]:
    """The plugins that a config names, also when other parts of it are wrong."""
    from longline.config.loader import read_config

    if not config.exists() and str(config) in infos:
        raise ConfigError(f"there is no config {config}, but a plugin of that name", hint=f"longline plugins show {config}")
    loaded, problems = read_config(config, overrides)
    if loaded is None:
        raise ConfigError(problems)
    return loaded.config.plugins


def _with_status(infos: dict[str, PluginInfo], entries: Sequence[PluginEntry]) -> tuple[list[dict[str, str]], list[str]]:
    """The rows with a status each, first those that the config names, in its order; and the names that cannot be used."""
    from longline.plugins.discovery import not_installed, unusable

    rows, bad = [], []
    for entry in entries:
        info = infos.get(entry.name)
        faults = unusable(info) if info else [not_installed(entry.name, infos)]
        row = _facts(info) if info else {"name": entry.name, "version": "-", "distribution": "-", "summary": ""}
        rows.append({**row, "status": _why(faults) or "enabled"})
        bad += [entry.name] if faults else []
    named = {entry.name for entry in entries}
    for name, info in infos.items():
        if name not in named:
            why = _why(unusable(info))
            rows.append({**_facts(info), "status": f"not enabled, {why}" if why else "not enabled"})
    return rows, bad


def _why(faults: Sequence[Fault]) -> str:
    return "; ".join(f"{fault.reason}: {fault.remedy}" for fault in faults)


def _echo_columns(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; nothing is wrapped, so that lines can be searched."""
    widths = [max(len(row[index]) for row in [heading, *rows]) for index in range(len(heading))]
    for number, row in enumerate([heading, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


# --- show ---------------------------------------------------------------------------------------------------------------------


@command.command("show")
@click.argument("name")
@json_option
def show_command(name: str, as_json: bool) -> None:
    """Import plugin NAME and print its options with types and defaults, what it claims, and the hooks it implements."""
    from longline.plugins import import_plugin, installed
    from longline.plugins.discovery import not_installed, unusable

    infos = installed()
    faults = unusable(infos[name]) if name in infos else [not_installed(name, infos)]
    if faults:
        raise PluginError("\n".join(fault.text for fault in faults), hint="; ".join(fault.remedy for fault in faults))
    info = infos[name]
    plugin = import_plugin(info)
    told = {
        **_facts(info),
        "entry_point": info.entry_point,
        **_claims(plugin),
        "options": _options(plugin.Config),
        "hooks": _hooks(plugin),
    }
    click.echo(json.dumps(told, indent=2)) if as_json else _echo_plugin(told)


def _claims(plugin: type[Plugin]) -> dict[str, Any]:
    """What a class claims; where the options decide that, what it claims without any, if it has a meaning without."""
    from pydantic import ValidationError

    from longline.plugins.loading import claims_by_options

    if not claims_by_options(plugin):
        claims: object = plugin.claims
        return {"claims": sorted(claims) if isinstance(claims, (set, frozenset)) else [], "claims_by_options": False}
    try:
        return {"claims": sorted(plugin(plugin.Config()).claims), "claims_by_options": True}
    except ValidationError:  # some option has to be given: which one, a validator may decide
        return {"claims": [], "claims_by_options": True}


def _options(model: type[BaseModel], prefix: str = "") -> list[dict[str, Any]]:
    """Name, type, default and description of every option; those of a nested section follow it with a dotted name."""
    from longline.config.explain import models_in

    options: list[dict[str, Any]] = []
    for name, field in model.model_fields.items():
        shown = f"{prefix}{field.alias or name}"
        option = {"name": shown, "type": _type(field.annotation), "required": field.is_required()}
        if not field.is_required():
            option["default"] = _default(field)
        options.append({**option, "description": " ".join((field.description or "").split())})
        for below in models_in(field.annotation):
            if below is not model:
                options += _options(below, f"{shown}.")
    return options


def _type(annotation: Any) -> str:
    """A type as an author writes it: `int | None`, without the modules that names come from."""
    import re

    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    return re.sub(r"\b(?:[a-z_][\w]*\.)+", "", str(annotation)).replace("NoneType", "None")


def _default(field: FieldInfo) -> Any:
    """A default as JSON can hold it; a secret stays masked."""
    from pydantic_core import to_jsonable_python

    if field.default_factory_takes_validated_data:
        return "made from the other options"
    return to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}), fallback=str)


def _hooks(plugin: type[Plugin]) -> list[dict[str, str]]:
    """The hooks that a class implements, in the order of time, with their facts."""
    import pluggy

    from longline.hookspecs import PROJECT, hook_facts
    from longline.plugins.verify import marked

    methods = marked(plugin, pluggy.PluginManager(PROJECT))
    names = {options.get("specname") or method for method, options in methods.items()}
    facts = hook_facts()
    known = [
        {"name": name, "kind": fact.kind, "ranks": fact.ranks, "when": fact.when}
        for name, fact in facts.items()
        if name in names
    ]
    unknown = [
        {"name": name, "kind": "unknown", "ranks": "-", "when": "there is no such hook"} for name in sorted(names - set(facts))
    ]
    return known + unknown


def _echo_plugin(told: dict[str, Any]) -> None:
    click.echo(click.style(f"{told['name']} {told['version']}", bold=True) + f"  {told['summary']}")
    click.echo(f"distribution  {told['distribution']}\nclass         {told['entry_point']}")
    depends = " without options; its options decide" if told["claims_by_options"] else ""
    click.echo(f"claims        {', '.join(told['claims']) or 'nothing'}{depends}\n")
    click.echo(click.style("options", bold=True) + ("" if told["options"] else "\n  none"))
    for option in told["options"]:
        default = "required" if option["required"] else f"= {json.dumps(option['default'])}"
        click.echo(f"  {option['name']}: {option['type']} {default}")
        if option["description"]:
            click.echo(f"      {option['description']}")
    click.echo("\n" + click.style("hooks", bold=True) + ("" if told["hooks"] else "\n  none"))
    for hook in told["hooks"]:
        ranks = "on the main rank" if hook["ranks"] == "main" else "on all ranks"
        click.echo(f"  {hook['name']} ({hook['kind']}, {ranks})\n      {hook['when']}")

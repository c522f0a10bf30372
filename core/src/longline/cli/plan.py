"""`longline plan`: what would run, what each plugin will do, and who answers each hook, without loading data or model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from longline.cli.options import config_argument, output, set_option
from longline.config.loader import load_config

if TYPE_CHECKING:
    from rich.console import Console

    from longline.plan import Plan
    from longline.plugins.run import State


@click.command()
@config_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print what CONFIG resolves to on this machine, what each plugin will do, and which plugin answers each hook."""
    from longline import stages
    from longline.model import best_attention
    from longline.run import open_run

    state = open_run(load_config(config, overrides), "plan")
    stages.trainer_arguments(state)  # what plugins change is what would run
    run, plan = state.view, state.plan
    if best := best_attention(run.config.model, run.output):
        plan = plan.with_attention(*best)
    answers = {hook: names for hook, names in state.bus.listeners().items() if names}
    plugins = _plugins(state, plan, answers)
    if as_json:
        facts = [{"name": fact.name, "value": run.mask(fact.value), "why": fact.why} for fact in plan.facts]
        click.echo(json.dumps({"facts": facts, "plugins": plugins, "hooks": answers}, indent=2, ensure_ascii=False))
        return
    console = output()
    _print(console, [(fact.name, run.mask(fact.value), fact.why) for fact in plan.facts])
    if plugins:
        console.print("\n[bold]plugins[/bold], in the order of calls")
        _print(console, [(row["name"], *_told(row)) for row in plugins])
    console.print("\n[bold]hooks[/bold], answered in this order")
    _print(console, [(hook, ", ".join(names)) for hook, names in answers.items()])


def _print(console: Console, rows: list[tuple[str, ...]]) -> None:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        cells = [escape(cell) for cell in row]
        grid.add_row(*cells[:2], *(f"[dim]{cell}[/dim]" for cell in cells[2:]))
    console.print(grid)


def _plugins(state: State, plan: Plan, answers: dict[str, list[str]]) -> list[dict[str, Any]]:
    """What each plugin is, claims, provides (where it is asked first) and says that it will do."""
    from longline.plugins import plugin_plans

    config, mask = state.loaded.config, state.view.mask
    plans = plugin_plans(config, plan, state.plugins)
    provided = {hook: names[0] for hook, names in answers.items() if hook.startswith("provide_")}
    return [
        {
            "name": plugin.name,
            "distribution": f"{plugin.distribution} {plugin.version}".strip(),
            "claims": sorted(plugin.instance.claims),
            "provides": [hook.removeprefix("provide_") for hook, first in provided.items() if first == plugin.name],
            "plan": [mask(line) for line in plans[plugin.name]],
        }
        for plugin in state.plugins
    ]


def _told(row: dict[str, Any]) -> tuple[str, str]:
    """What it will do, or what it answers; and where it comes from."""
    facts = [f"{word} {', '.join(row[word])}" for word in ("claims", "provides") if row[word]]
    return "\n".join(row["plan"]) or "-", "\n".join([row["distribution"], *facts])

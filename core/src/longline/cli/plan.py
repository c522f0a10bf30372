"""`longline plan`: what would run, and who answers each hook, without loading data or model."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from longline.cli.options import config_argument, output, set_option
from longline.config.loader import load_config


@click.command()
@config_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print what CONFIG resolves to on this machine, and which plugin answers each hook."""
    from longline import stages
    from longline.model import best_attention
    from longline.run import open_run

    state = open_run(load_config(config, overrides), "plan")
    stages.trainer_arguments(state)  # what plugins change is what would run
    run, plan = state.view, state.plan
    if best := best_attention(run.config.model, run.output):
        plan = plan.with_attention(*best)
    answers = {hook: names for hook, names in state.bus.listeners().items() if names}
    if as_json:
        facts = [{"name": fact.name, "value": run.mask(fact.value), "why": fact.why} for fact in plan.facts]
        click.echo(json.dumps({"facts": facts, "hooks": answers}, indent=2, ensure_ascii=False))
        return
    console = output()
    table = Table.grid(padding=(0, 2))
    for fact in plan.facts:
        table.add_row(escape(fact.name), escape(run.mask(fact.value)), f"[dim]{escape(fact.why)}[/dim]")
    console.print(table)
    console.print("\n[bold]hooks[/bold], answered in this order")
    grid = Table.grid(padding=(0, 2))
    for hook, names in answers.items():
        grid.add_row(hook, escape(", ".join(names)))
    console.print(grid)

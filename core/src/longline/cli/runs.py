"""`longline runs`: what lies in a folder of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from longline.artifacts import read_manifest
from longline.cli.options import output
from longline.errors import ConfigError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one run a line.")
def command(folder: Path, as_json: bool) -> None:
    """List the runs below FOLDER, newest first: status, steps, loss, time."""
    found = sorted(_manifests(folder), key=lambda item: str(item[1].get("started")), reverse=True)
    if as_json:
        for path, manifest in found:
            click.echo(json.dumps({"path": str(path), **manifest}, ensure_ascii=False))
        return
    if not found:
        raise ConfigError(f"no run below {folder}")
    table = Table(box=None, pad_edge=False)
    for name in ("run", "status", "method", "steps", "loss", "eval loss", "seconds", "started"):
        table.add_column(name, justify="right" if name in ("steps", "loss", "eval loss", "seconds") else "left")
    for path, manifest in found:
        table.add_row(*_cells(path, manifest))
    output().print(table)


def _manifests(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every readable manifest below the folder; a broken one is named on stderr and left out."""
    found = []
    for path in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir() and not p.name.startswith((".", "checkpoint-")))]:
        if (path / "run.json").is_file():
            try:
                found.append((path, read_manifest(path)))
            except ConfigError as error:
                click.echo(f"left out: {error}", err=True)
    return found


def _cells(path: Path, manifest: dict[str, Any]) -> list[str]:
    summary = manifest.get("summary") or {}
    metrics = summary.get("metrics") or {}

    def number(value: Any, form: str) -> str:
        return format(value, form) if isinstance(value, (int, float)) else "-"

    return [
        escape(str(path)),
        str(manifest.get("status", "-")),
        str(manifest.get("method", "-")),
        number(summary.get("steps"), "d"),
        number(metrics.get("train_loss", metrics.get("loss")), ".4f"),
        number(metrics.get("eval_loss"), ".4f"),
        number(summary.get("train_seconds"), ".1f"),
        str(manifest.get("started", "-"))[:19],
    ]

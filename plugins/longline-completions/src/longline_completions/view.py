"""Rows on a screen and in a pipe. Texts come from a model: what a terminal would obey is shown, not sent."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan
from typing import IO, TYPE_CHECKING

from longline.text import json_line, showable
from longline_completions.cells import shorten

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from longline.events import Cell
    from longline_completions.archive import Kind

LEAST_PREVIEW = 60
PREVIEW_LINES = 4


def shown(cell: Cell) -> str:
    """Return a cell as a person reads it; a number has four digits that count."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"{cell:.4g}" if isinstance(cell, float) else showable(str(cell))


# --- on a screen ----------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Cell]], columns: Mapping[str, Kind], width: int) -> Table:
    """Return rows as a table that fits into `width` columns; long texts lose their middle, and their lines are joined by ↵."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    texts = sum(kind == "text" for kind in columns.values())
    keep = max(LEAST_PREVIEW, PREVIEW_LINES * (width - 12 * (len(columns) - texts)) // max(1, texts))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, leading=1 if texts else 0)
    for name, kind in columns.items():
        if kind == "text":
            made.add_column(Text(showable(name)), ratio=1, overflow="fold")
        else:
            made.add_column(Text(showable(name)), justify="right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_preview(row.get(name), keep)) for name in columns))
    return made


def _preview(cell: Cell, keep: int) -> str:
    if not isinstance(cell, str):
        return shown(cell)
    return showable(shorten(cell, keep, " … ")).replace("\n", "↵ ").replace("\t", " ")


def whole(console: Console, rows: Iterable[Mapping[str, Cell]], columns: Mapping[str, Kind]) -> None:
    """Print each row by itself: a line with its numbers, then its texts as they are, indented so that none looks like a heading."""
    from rich.text import Text

    numbers = [name for name, kind in columns.items() if kind != "text"]
    texts = [name for name, kind in columns.items() if kind == "text"]
    for row in rows:
        heading = "  ".join(f"{showable(name)} {shown(row.get(name))}" for name in numbers)
        console.print(Text(heading or "row", style="bold"), soft_wrap=True)
        for name in texts:
            console.print(Text(f"  {showable(name)}", style="cyan"), soft_wrap=True)
            for line in shown(row.get(name)).split("\n"):
                console.print(Text(f"    {line}"), soft_wrap=True)
        console.print()


# --- in a pipe ------------------------------------------------------------------------------------------------------------------


def as_json(row: Mapping[str, Cell], columns: Iterable[str]) -> str:
    """Return a row as a JSON object; numbers that JSON lacks are the strings NaN and Infinity, as in log.jsonl."""
    return json_line({name: _json(row.get(name)) for name in columns})


def _json(cell: Cell) -> Cell:
    if isinstance(cell, float) and not isfinite(cell):
        return "NaN" if isnan(cell) else ("Infinity" if cell > 0 else "-Infinity")
    return cell


def write_csv(stream: IO[str], rows: Iterable[Mapping[str, Cell]], columns: Sequence[str]) -> None:
    """Write rows as CSV with a heading. Texts are as they are, so on a terminal what it would obey is written out."""
    change = showable if stream.isatty() else str
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # minimal quoting forgets a lone \r
    writer.writerow([change(name) for name in columns])
    for row in rows:
        cells = [row.get(name) for name in columns]
        writer.writerow([change(cell) if isinstance(cell, str) else cell for cell in cells])

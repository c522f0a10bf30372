"""Rows on a screen and in a pipe. Texts come from a model: what a terminal would obey is shown, not sent."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan
from typing import IO, TYPE_CHECKING

from longline_completions.cells import shorten

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from longline.events import Cell
    from longline_completions.archive import Kind

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns the direction of writing, or ends a line
    "\ufff9-\ufffb\ufeff\ud800-\udfff\U000e0000-\U000e007f]"  # what is invisible, or half a character
)
LEAST_PREVIEW = 60
PREVIEW_LINES = 4


def visible(text: str) -> str:
    """Return a text with everything that a terminal would obey written out as Python does: `\\x1b`."""
    return _OBEYED.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if character == "\r":
        return "\\r"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def shown(cell: Cell) -> str:
    """Return a cell as a person reads it; a number has four digits that count."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"{cell:.4g}" if isinstance(cell, float) else visible(str(cell))


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
            made.add_column(Text(visible(name)), ratio=1, overflow="fold")
        else:
            made.add_column(Text(visible(name)), justify="right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_preview(row.get(name), keep)) for name in columns))
    return made


def _preview(cell: Cell, keep: int) -> str:
    if not isinstance(cell, str):
        return shown(cell)
    return visible(shorten(cell, keep, " … ")).replace("\n", "↵ ").replace("\t", " ")


def whole(console: Console, rows: Iterable[Mapping[str, Cell]], columns: Mapping[str, Kind]) -> None:
    """Print each row by itself: a line with its numbers, then its texts as they are, indented so that none looks like a heading."""
    from rich.text import Text

    numbers = [name for name, kind in columns.items() if kind != "text"]
    texts = [name for name, kind in columns.items() if kind == "text"]
    for row in rows:
        heading = "  ".join(f"{visible(name)} {shown(row.get(name))}" for name in numbers)
        console.print(Text(heading or "row", style="bold"), soft_wrap=True)
        for name in texts:
            console.print(Text(f"  {visible(name)}", style="cyan"), soft_wrap=True)
            for line in shown(row.get(name)).split("\n"):
                console.print(Text(f"    {line}"), soft_wrap=True)
        console.print()


# --- in a pipe ------------------------------------------------------------------------------------------------------------------


def json_line(row: Mapping[str, Cell], columns: Iterable[str]) -> str:
    """Return a row as a JSON object; numbers that JSON lacks are the strings NaN and Infinity, as in log.jsonl."""
    text = json.dumps({name: _json(row.get(name)) for name in columns}, ensure_ascii=False, allow_nan=False)
    return _OBEYED.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _json(cell: Cell) -> Cell:
    if isinstance(cell, float) and not isfinite(cell):
        return "NaN" if isnan(cell) else ("Infinity" if cell > 0 else "-Infinity")
    return cell


def write_csv(stream: IO[str], rows: Iterable[Mapping[str, Cell]], columns: Sequence[str]) -> None:
    """Write rows as CSV with a heading. Texts are as they are, so on a terminal what it would obey is written out."""
    change = visible if stream.isatty() else str
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # minimal quoting forgets a lone \r
    writer.writerow([change(name) for name in columns])
    for row in rows:
        cells = [row.get(name) for name in columns]
        writer.writerow([change(cell) if isinstance(cell, str) else cell for cell in cells])

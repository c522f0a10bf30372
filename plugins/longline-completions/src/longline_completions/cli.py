"""`longline completions RUN`: what a run was trained on, in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from longline.events import Cell
    from longline_completions.archive import Archive, Kind
    from longline_completions.filters import Order, RowTest

SCREENFUL = 20
EXIT_INCOMPLETE = 2


@click.command("completions")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--step", "step", metavar="STEPS", help="Only these steps: 100, 100-200, 100- or -200.")
@click.option("--where", "wheres", multiple=True, metavar="FILTER", help="Only rows like 'margin < 0' or 'label = false'.")
@click.option("--contains", "parts", multiple=True, metavar="TEXT", help="Only rows with TEXT in some text, in any case.")
@click.option("--worst", is_flag=True, help="Lowest score first; the score is the margin or the reward.")
@click.option("--best", is_flag=True, help="Highest score first.")
@click.option("--sort", "column", metavar="COLUMN", help="Highest value of COLUMN first.")
@click.option("--ascending", is_flag=True, help="With --sort: lowest first.")
@click.option("--limit", type=click.IntRange(min=0), help=f"How many rows, 0 for all; {SCREENFUL} on a screen unless you say.")
@click.option("--columns", "names", metavar="NAME,...", help="Only these columns, in this order.")
@click.option("--full", is_flag=True, help="Whole texts, one row after the other.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each row.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a heading.")
def command(run: Path, step: str | None, names: str | None, limit: int | None, **options: Any) -> int:
    """Show the completions of RUN, a run folder, or one of its Parquet files: the newest rows, unless you sort.

    Several filters must all hold. Exit status: 0 shown, 2 there is nothing to show it from, or a file could not be read.
    """
    from longline_completions.archive import find
    from longline_completions.filters import steps

    _refuse_both({"--worst": options["worst"], "--best": options["best"], "--sort": options["column"]})
    _refuse_both({name: options[key] for name, key in (("--full", "full"), ("--json", "as_json"), ("--csv", "as_csv"))})
    first, last = steps(step)
    archive = find(run, lambda text: click.echo(text, err=True))
    columns = _columns(names, archive)
    tests = _tests(options["wheres"], options["parts"], archive)
    order = _order(options, archive)
    if limit is None:
        limit = 0 if options["as_json"] or options["as_csv"] else SCREENFUL
    rows = _rows(archive, tests, order, limit, first, last)
    _print(rows, columns, options)
    _say_what_is_missing(rows, archive, order, limit, filtered=bool(tests or step))
    return EXIT_INCOMPLETE if archive.broken else 0


def _refuse_both(options: dict[str, Any]) -> None:
    """Refuse options that exclude each other; `0` and nothing are not given."""
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other")


def _columns(names: str | None, archive: Archive) -> dict[str, Kind]:
    from longline_completions.names import known

    if names is None:
        return archive.columns
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise click.UsageError("--columns names no column")
    return {known(name, archive.columns, "--columns"): archive.columns[name] for name in wanted}


def _tests(wheres: tuple[str, ...], parts: tuple[str, ...], archive: Archive) -> list[RowTest]:
    from longline_completions.filters import contains, where

    return [*(where(text, archive.columns) for text in wheres), *(contains(text) for text in parts)]


def _order(options: dict[str, Any], archive: Archive) -> Order | None:
    from longline.errors import ConfigError
    from longline_completions.filters import Order
    from longline_completions.names import known

    if options["column"]:
        return Order(known(options["column"], archive.columns, "--sort"), options["ascending"])
    if options["ascending"]:
        raise click.UsageError("--ascending needs --sort COLUMN")
    if not (options["worst"] or options["best"]):
        return None
    if archive.score is None or archive.score not in archive.columns:
        option = "--worst" if options["worst"] else "--best"
        raise ConfigError(f"{option}: the tables have no score", hint=f"use --sort; there are {', '.join(archive.columns)}")
    return Order(archive.score, options["worst"])


def _rows(
    archive: Archive, tests: list[RowTest], order: Order | None, limit: int, first: int | None, last: int | None
) -> list[dict[str, Cell]]:
    """The rows to show, in their order; files are read only until there are enough."""
    from longline_completions.filters import newest

    found = archive.rows(first, last, newest=order is None)
    matching = (row for row in found if all(test(row) for test in tests))
    return order.take(matching, limit) if order else newest(matching, limit)


def _print(rows: list[dict[str, Cell]], columns: dict[str, Kind], options: dict[str, Any]) -> None:
    from longline.cli.options import output
    from longline_completions import view

    if "utf" not in (sys.stdout.encoding or "").lower() and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # rather than fail at the first letter that it lacks
    if options["as_json"]:
        for row in rows:
            sys.stdout.write(view.as_json(row, columns) + "\n")
    elif options["as_csv"]:
        view.write_csv(sys.stdout, rows, list(columns))
    elif options["full"]:
        view.whole(output(), rows, columns)
    elif rows:
        console = output()
        console.print(view.table(rows, columns, console.width))


def _say_what_is_missing(
    rows: list[dict[str, Cell]], archive: Archive, order: Order | None, limit: int, *, filtered: bool
) -> None:
    """On stderr, so that a pipe gets rows alone: that nothing matched, or that there is more."""
    total = f"{archive.count:,} rows in {len(archive.sources)} table{'s' if len(archive.sources) > 1 else ''}"
    if not rows:
        click.echo(f"no row matches, of {total}", err=True)
    elif limit and len(rows) == limit < archive.count:
        sense = f"the first {limit} by {order.column}" if order else f"the newest {limit}"
        click.echo(f"{sense}{' that match' if filtered else ''}, of {total}; --limit 0 shows all", err=True)

"""`longline convert TOOL FILE`: another tool's config as one of ours, and a word on every key of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from longline.cli.options import write_new
from longline.config.document import dotted
from longline.converters import translate
from longline.converters.writer import at, inline, shown, written
from longline.errors import ConfigError
from longline.text import one_line, showable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline.converters import Draft, Entry


LONGEST = 80
"""How much of a value the report shows."""


@click.command("convert")
@click.argument("tool")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the config to this file, which must not exist.")
def command(tool: str, file: Path, output: Path | None) -> int:
    """Translate FILE, a config of TOOL (axolotl, or what other distributions bring), to standard output.

    Comments are kept. A report on standard error says of every key whether it was translated, translated with a note, or has no
    equal and what comes nearest; and what was added because the other tool's default is another one.
    """
    if output is not None and (output.exists() or output.is_symlink()):
        raise ConfigError(f"{output} exists; `convert` never overwrites", hint="name another file")
    draft = translate(tool, file)
    text = written(draft)
    for line in report(draft):
        click.echo(showable(line), err=True)
    if output is None:
        click.echo(text, nl=False)
        return 0
    write_new(output, {output: text})
    click.echo(f"wrote {output}; next: longline check {output}", err=True)
    return 0


HEADINGS = {
    "translated": "translated",
    "noted": "translated with a note",
    "unneeded": "nothing to set",
    "unsupported": "no equal here",
    "unset": "without a value, so unset",
}
"""What the report calls each status, in its order."""


def report(draft: Draft) -> Iterator[str]:
    """Every key of the file with what became of it, what was added, and the sums."""
    told: dict[str, list[Entry]] = {status: [] for status in HEADINGS}
    for entry in draft.entries.values():
        told[entry.status].append(entry)
    unset = told.pop("unset")
    for status, entries in told.items():
        if entries:
            yield f"{HEADINGS[status]}:"
            yield from (f"  {_line(draft, entry)}" for entry in entries)
    if unset:
        yield f"{HEADINGS['unset']}: {', '.join(dotted(entry.keys) for entry in unset)}"
    if draft.added:
        yield f"added, since {draft.tool}'s defaults are not ours:"
        yield from (f"  {dotted(place)}: {inline(at(draft, place))} ({why})" for place, why in draft.added.items())
    sums = ", ".join(f"{len(entries)} {HEADINGS[status]}" for status, entries in {**told, "unset": unset}.items() if entries)
    yield f"{draft.source}: {len(draft.entries)} keys: {sums}"


def _line(draft: Draft, entry: Entry) -> str:
    value = one_line(shown(draft, entry))
    value = f"{value[: LONGEST - 3]}..." if len(value) > LONGEST else value
    places = f" -> {', '.join(map(dotted, entry.to))}" if entry.to else ""
    note = f"; {'nearest: ' if entry.status == 'unsupported' else ''}{entry.note}" if entry.note else ""
    return f"{value}{places}{note}"

"""`longline spectrum scan MODEL`: where the signal of a model is, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from longline_spectrum.choice import Kind
    from longline_spectrum.config import Threshold
    from longline_spectrum.scan import Scan


@click.group("spectrum")
def command() -> None:
    """Measure signal and noise in the matrices of a model."""


@command.command("scan")
@click.argument("model", metavar="MODEL")
@click.option("--top", "top", type=click.FloatRange(0, 1, min_open=True), help="Show which layers this share of each kind is.")
@click.option("--kinds", metavar="KIND,...", default="", help="Only these kinds: q_proj, self_attn, mlp ...")
@click.option("--threshold", type=click.Choice(["edge", "published"]), default="edge", show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Also write the scan here; .csv writes its table."
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--gguf-file", "gguf", metavar="FILE", help="Which GGUF file of a folder or hub id.")
@click.option("--again", is_flag=True, help="Measure again, although there is a scan of these weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the scan as JSON.")
def scan(
    model: str,
    top: float | None,
    kinds: str,
    threshold: Threshold,
    output: Path | None,
    revision: str | None,
    gguf: str | None,
    again: bool,
    as_json: bool,
) -> int:
    """Measure the matrices of MODEL, a folder, a .safetensors or .gguf file, or a hub id that is on this machine.

    Files are read one matrix at a time. The result is kept by the content of the weights, and read where they are scanned again.
    Exit status: 0 done, 2 the weights cannot be read.
    """
    from longline_spectrum import files, kept
    from longline_spectrum import scan as scans
    from longline_spectrum.choice import pick
    from longline_spectrum.progress import Progress

    checkpoint = files.opened(model, revision=revision, gguf=gguf)
    with Progress(checkpoint) as progress:
        found = kept.make(checkpoint, progress, again=again)
    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    _refuse_unknown(found, wanted)
    if output:
        _write(output, scans.to_csv(found) if output.suffix == ".csv" else scans.to_json(found))
    if as_json:
        click.echo(scans.to_json(found), nl=False)
        return 0
    _print(pick(found, top or 0.0, threshold, wanted), found, threshold, top)
    click.echo(f"kept in {kept.path_of(found.weights)}, its table in .csv beside it", err=True)
    return 0


def _refuse_unknown(found: Scan, wanted: list[str]) -> None:
    from longline.errors import ConfigError, did_you_mean
    from longline_spectrum.units import by_kind, chosen

    kinds = by_kind(row.unit for row in found.rows)
    for word in chosen(kinds, wanted)[1]:
        words = {part for label in kinds for part in (label, *label.split("."))}
        hint = did_you_mean(word, words, f"there are {', '.join(kinds)}")
        raise ConfigError(f"--kinds: no kind of matrix is called {word!r}", hint=hint)


def _write(path: Path, text: str) -> None:
    from longline.errors import ConfigError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output: cannot write {path}: {error.strerror or error}") from error


def _print(kinds: list[Kind], found: Scan, threshold: Threshold, top: float | None) -> None:
    """A row for each kind: its ratios, and the layers by rank or those that a share is."""
    from rich.table import Table

    from longline.cli.options import output
    from longline_spectrum.choice import share

    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "layers", "shape", "signal to noise", "trained layers" if top else "by rank"):
        table.add_column(heading, overflow="fold")
    for kind in kinds:
        ratios = [row.by[threshold].snr for row in kind.rows]
        shape = " x ".join(map(str, kind.rows[0].unit.shape))
        last = kind.layers if top else ", ".join(str(row.unit.layer) for row in kind.rows)
        table.add_row(kind.name, str(len(kind.rows)), shape, f"{ratios[0]:.3g} to {ratios[-1]:.3g}", last)
    output().print(table)
    if top:
        click.echo(share(sum(kind.weights for kind in kinds), found.total))

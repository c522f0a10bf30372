"""What came of an evaluation: metrics, rows of a table, lines for a terminal, and files in the harness's own format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from longline import ConfigError, LonglineError

if TYPE_CHECKING:
    from longline.events import Cell

COLUMNS = ("task", "n-shot", "rows", "metric", "filter", "value", "stderr")
"""The columns of the table."""
FILE = "results.json"


def _values(found: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """The numbers of one task: metric, filter, value. Its name and counts are none, nor are errors that could not be estimated."""
    for key, value in found.items():
        metric, comma, kind = key.partition(",")
        if comma and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield metric, kind, float(value)


def metrics(results: Mapping[str, Any], name: str) -> dict[str, float]:
    """The numbers of one task or group as they are logged: `lm_eval/<task>/<metric>`, with the filter where it has a name."""
    named = (
        (metric if kind == "none" else f"{metric},{kind}", value) for metric, kind, value in _values(results["results"][name])
    )
    return {f"lm_eval/{name}/{metric}": value for metric, value in named}


def rows(results: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    """The rows of the table: each number once, with its standard error beside it."""
    made: list[tuple[Cell, ...]] = []
    for name, found in results["results"].items():
        numbers = {(metric, kind): value for metric, kind, value in _values(found)}
        shots, count = results.get("n-shot", {}).get(name), found.get("sample_len")
        for (metric, kind), value in numbers.items():
            if not metric.endswith("_stderr"):
                made.append((name, shots, count, metric, kind, value, numbers.get((f"{metric}_stderr", kind))))
    return made


def lines(made: list[tuple[Cell, ...]]) -> list[str]:
    """The table for a terminal."""
    cells = [COLUMNS, *(tuple(_shown(cell) for cell in row) for row in made)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _shown(cell: Cell) -> str:
    return "" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def require_writable(folder: Path) -> None:
    """Raise ConfigError where results could not be written: before hours of work and not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryDirectory(dir=folder).cleanup()
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}", hint="check output") from error


def write(results: dict[str, Any], tracker: Any, folder: Path) -> Path:
    """Write results.json, and samples_<task>.jsonl of what was kept, by the harness's own writer; all of it or what was there.

    Raises LonglineError when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as part:
            samples = results.pop("samples", None)
            tracker.output_path = str(Path(part) / FILE)
            tracker.save_results_aggregated(results=results, samples=samples)
            for name, kept in (samples or {}).items():
                tracker.save_results_samples(task_name=name, samples=kept)
            for old in folder.glob("samples_*.jsonl"):
                old.unlink()
            written = {path: _plain_name(path.name, tracker.date_id) for path in Path(part).iterdir()}
            _require_all(len(written) == 1 + len(samples or {}))
            for path, name in written.items():
                path.replace(folder / name)
    except OSError as error:
        raise LonglineError(f"cannot write {folder / FILE}: {error.strerror or error}", hint="check output") from error
    return folder / FILE


def _require_all(complete: bool) -> None:
    """The harness's writer tells nobody but its log what went wrong."""
    if not complete:
        raise OSError("not all of it could be written")


def _plain_name(name: str, date: str) -> str:
    """The harness puts the date into every name, so that a folder may hold many; here the folder says which it is."""
    return name.replace(f"_{date}", "")

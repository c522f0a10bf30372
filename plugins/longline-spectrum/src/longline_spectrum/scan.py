"""A scan: what every unit of a model measures, as it is made, and as it is kept in a small JSON file with a table beside it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline.errors import ModelError
from longline_spectrum.edge import THRESHOLDS, Measure, measure
from longline_spectrum.units import Unit, units

if TYPE_CHECKING:
    from longline_spectrum.config import Threshold
    from longline_spectrum.files import Checkpoint

FORMAT = 1
"""The number of this form of a scan; a file of another one is made again."""


@dataclass(frozen=True, slots=True)
class Row:
    """A unit and what each threshold says of it; `largest` is its largest singular value."""

    unit: Unit
    largest: float
    by: Mapping[Threshold, Measure]


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found in a model: `weights` is the fingerprint of its weights, `beside` counts those that are in no unit."""

    model: str
    weights: str
    rows: tuple[Row, ...]
    beside: Mapping[str, int]
    gguf: tuple[str, int] | None = None

    @property
    def total(self) -> int:
        """All weights of the model."""
        return sum(row.unit.weights for row in self.rows) + sum(self.beside.values())


def make(checkpoint: Checkpoint, weights: str, step: Callable[[Unit], Row | None], done: Callable[[Row], None]) -> Scan:
    """Measure one matrix after the other. `step` may know a unit from an earlier try; `done` is told of each.

    Raises:
        ModelError: the weights cannot be read, or are quantised.
    """
    found, beside = units(checkpoint)
    rows = []
    for unit in found:
        row = step(unit) or _measured(unit)
        done(row)
        rows.append(row)
    return Scan(checkpoint.name, weights, tuple(rows), beside, checkpoint.gguf)


def _measured(unit: Unit) -> Row:
    """Measure a unit, each expert by itself."""
    from longline_spectrum.values import singular_values

    largest, by = 0.0, {threshold: [] for threshold in THRESHOLDS}  # type: ignore[var-annotated]
    for matrix in (matrix for tensor in unit.parts for matrix in tensor.matrices()):
        values = singular_values(matrix)
        largest = max(largest, float(values[0]))
        for threshold, measures in by.items():
            measures.append(measure(values, *matrix.shape, threshold))
    return Row(unit, largest, {threshold: Measure.mean(measures) for threshold, measures in by.items()})


# --- on disk --------------------------------------------------------------------------------------------------------------------


def row_to_json(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    unit = row.unit
    facts = {name: getattr(unit, name) for name in ("stack", "layer", "kind", "shape", "weights", "experts", "tensors")}
    return {**facts, "largest": row.largest, **{threshold: asdict(found) for threshold, found in row.by.items()}}


def row_of_json(content: Mapping[str, Any]) -> Row:
    """The row again. Raises KeyError, TypeError or ValueError for something else."""
    rows, columns = content["shape"]
    unit = Unit(
        str(content["stack"]),
        int(content["layer"]),
        str(content["kind"]),
        (int(rows), int(columns)),
        int(content["weights"]),
        int(content["experts"]),
        tuple(map(str, content["tensors"])),
    )
    by = {threshold: Measure(**{name: float(value) for name, value in content[threshold].items()}) for threshold in THRESHOLDS}
    return Row(unit, float(content["largest"]), by)


def to_json(scan: Scan) -> str:
    """The file of a scan: a line for each unit."""
    head = {"longline_spectrum": FORMAT, "model": scan.model, "weights": scan.weights, "gguf": scan.gguf, "beside": scan.beside}
    rows = ",\n".join("  " + json.dumps(row_to_json(row)) for row in scan.rows)
    return f'{json.dumps(head)[:-1]}, "rows": [\n{rows}\n]}}\n'


def of_json(text: str) -> Scan:
    """The scan again. Raises ValueError for a text that is none, or one of another form."""
    try:
        content = json.loads(text)
        if content["longline_spectrum"] != FORMAT:
            raise ValueError(f"form {content['longline_spectrum']}, and {FORMAT} is read")
        beside = {str(name): int(count) for name, count in content["beside"].items()}
        arch = content["gguf"]
        rows = tuple(map(row_of_json, content["rows"]))
        gguf = (str(arch[0]), int(arch[1])) if arch else None
        return Scan(str(content["model"]), str(content["weights"]), rows, beside, gguf)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("no scan of longline spectrum") from error


def read(path: Path) -> Scan:
    """A scan that somebody names. Raises ModelError where the file is none."""
    try:
        found = of_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(
            f"{path} is no scan: {error}", hint="`longline spectrum scan MODEL --output FILE` writes one"
        ) from error
    if not found.rows:
        raise ModelError(f"{path} has no rows", hint="scan the model again")
    return found


def table(scan: Scan) -> Iterator[tuple[str | int | float, ...]]:
    """The table of a scan: a heading, and a row for each unit."""
    numbers = ("signals", "snr", "sigma", "threshold")
    yield ("name", "kind", "layer", "rows", "columns", "weights", *(f"{t}_{n}" for t in THRESHOLDS for n in numbers))
    for row in scan.rows:
        unit = row.unit
        yield (
            unit.name,
            unit.kind,
            unit.layer,
            *unit.shape,
            unit.weights,
            *(getattr(row.by[threshold], name) for threshold in THRESHOLDS for name in numbers),
        )


def to_csv(scan: Scan) -> str:
    """The table as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(table(scan))
    return stream.getvalue()

"""The Parquet files of a run, one for each table: written whole or not at all, and taken back to a checkpoint.

    <output_dir>/completions/step-000100.parquet

A file holds `step`, the columns of the rows, and beside the schema what is known of the whole table (`Facts`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline_completions.cells import number

if TYPE_CHECKING:
    import pyarrow as pa

    from longline import Table
    from longline.events import Cell

FOLDER = "completions"
"""The folder within a run's; also the name of the tables."""
PENDING = ".pending.parquet"
"""The rows since the last table, as they were at the last checkpoint. The dot hides it from those who read the whole folder."""
METADATA = b"longline"

_FILE = re.compile(r"step-(\d+)(?:\.(\d+))?\.parquet")
_TYPES: tuple[tuple[str, Callable[[Any], Cell]], ...] = (("bool", bool), ("int64", int), ("double", number), ("string", str))
"""From narrow to wide; each can hold the values of those before it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a table as a whole: the run, its method, the column that tells good rows from bad, how the rows were
    chosen, and how many there were to choose from.
    """

    run: str
    method: str
    score: str
    sample: str
    seen: int


def tables(folder: Path) -> list[tuple[int, Path]]:
    """Return the tables in a folder, oldest first, each with the last step whose rows it may hold."""
    found = [(path, _FILE.fullmatch(path.name)) for path in folder.glob("step-*.parquet")]
    named = [(int(match[1]), int(match[2] or 0), path) for path, match in found if match]
    return [(step, path) for step, _, path in sorted(named)]


class Store:
    """Writes the tables of one run. Every method raises OSError, or an error of pyarrow, when that cannot be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._widths: dict[str, int] = {}

    def write(self, table: Table, facts: Facts) -> Path:
        """Write a table as a file of its own and return its path; what was pending is in it."""
        path = self._free(table.step)
        self._publish(self._arrow(table, facts), path, instead_of=self.folder / PENDING)
        return path

    def write_pending(self, table: Table, facts: Facts) -> None:
        """Keep the rows of the table in the making, for a run that goes on from the checkpoint that was just saved."""
        self._publish(self._arrow(table, facts), self.folder / PENDING)

    def rewind(self, step: int) -> Rewound:
        """Take the folder back to `step`: rows after it will be made again, rows up to it stay, also those still pending."""
        if not self.folder.is_dir():
            return Rewound()
        kept, unreadable = [], []
        later = [path for last, path in tables(self.folder) if last > step]
        for path in [*later, self.folder / PENDING]:
            try:
                rows = _rows_until(path, step)
            except FileNotFoundError:
                continue  # nothing is pending
            except errors() as error:
                unreadable.append(f"{path.name}: {first_line(error)}")
                rows = None
            if rows is not None and rows.num_rows:
                kept.append(self._free(step))
                self._publish(rows, kept[-1])
            path.unlink()
        for path in self.folder.glob(".*.parquet.*"):  # what a killed process left half written
            path.unlink()
        return Rewound(tuple(kept), tuple(unreadable))

    def _free(self, step: int) -> Path:
        """A name that no table has. Two tables of a step are rare: rows that came after the first one, and no step after it."""
        path, number = self.folder / f"step-{step:06d}.parquet", 1
        while path.exists():
            path, number = self.folder / f"step-{step:06d}.{number}.parquet", number + 1
        return path

    def _publish(self, table: pa.Table, path: Path, instead_of: Path | None = None) -> None:
        """Write beside the final name and rename, so that a reader, or a crash, sees a whole file or none."""
        import pyarrow.parquet as pq

        self.folder.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as stream:
                pq.write_table(table, stream, compression="zstd")
                stream.flush()
                os.fsync(stream.fileno())
            if instead_of is not None:
                instead_of.unlink(missing_ok=True)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _arrow(self, table: Table, facts: Facts) -> pa.Table:
        import pyarrow as pa

        columns = [[row[index] for row in table.rows] for index in range(len(table.columns))]
        arrays = [self._array(name, values) for name, values in zip(table.columns, columns, strict=True)]
        made = pa.table(arrays, names=list(table.columns))
        return made.replace_schema_metadata({METADATA: json.dumps(asdict(facts), ensure_ascii=False).encode()})

    def _array(self, name: str, values: Sequence[Cell]) -> pa.Array:
        """A column of one type: the narrowest that holds its values and those that it had in tables before."""
        import pyarrow as pa

        width = max([_width(value) for value in values if value is not None] + [self._widths.get(name, -1)])
        if width < 0:  # nothing is known: what is absent in every row is a reward rather than a text
            return pa.array(values, pa.float64())
        self._widths[name] = width
        kind, convert = _TYPES[width]
        return pa.array([None if value is None else convert(value) for value in values], pa.type_for_alias(kind))


@dataclass(frozen=True, slots=True)
class Rewound:
    """What `Store.rewind` found: the new tables, of rows that were pending or in a table with later ones, and files that could
    not be read, with the reason.
    """

    kept: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = ()


def _width(value: Cell) -> int:
    """Where in `_TYPES` a value belongs."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return 1 if -(2**63) <= value < 2**63 else 2
    return 2 if isinstance(value, float) else 3


def _read(path: Path) -> pa.Table:
    """Read one file as it is; a folder's name such as `step=1` adds no column."""
    import pyarrow.parquet as pq

    # Not read_table: its threads may still hold what is Python's when the process ends, which is then aborted after its work.
    with pq.ParquetFile(path) as file:
        return file.read()


def _rows_until(path: Path, step: int) -> pa.Table:
    import pyarrow.compute as pc

    return _read(path).filter(pc.field("step") <= step)


def errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a file that is no Parquet, or damaged."""
    import pyarrow as pa

    return (OSError, pa.ArrowException)


def read(path: Path) -> tuple[tuple[str, ...], list[dict[str, Cell]]]:
    """Return the columns and the rows of a file.

    Raises OSError, or an error of pyarrow, when it cannot be read.
    """
    table = _read(path)
    return tuple(table.column_names), table.to_pylist()


def facts(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return what a file's metadata tell of its table; nothing when another program wrote it."""
    try:
        found = json.loads((metadata or {})[METADATA])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def first_line(error: Exception) -> str:
    """Return what an error says, without the details that some libraries put below."""
    return str(error).strip().split("\n")[0] or type(error).__name__

"""The tables that a run left, as one list of rows that is read file by file: a long run has more than fits into memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longline import methods
from longline.errors import ConfigError
from longline_completions.store import FOLDER, errors, facts, first_line, read, tables

if TYPE_CHECKING:
    import pyarrow as pa

    from longline.events import Cell

Kind = Literal["number", "flag", "text"]
Complain = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path, and the last step whose rows it may hold, if its name tells."""

    path: Path
    step: int | None


class Archive:
    """Every readable table of a run. `columns` are all that some table has, `score` is what tells good rows from bad ones,
    `count` the number of rows. `complain` is told of each file that cannot be read; `broken` counts them.
    """

    def __init__(self, sources: list[Source], complain: Complain) -> None:
        self.sources: list[Source] = []
        self.columns: dict[str, Kind] = {}
        self.score: str | None = None
        self.count = self.broken = 0
        self._complain = complain
        for source in sources:
            self._open(source)

    def _open(self, source: Source) -> None:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(source.path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except errors() as error:
            self._leave_out(source.path, error)
            return
        for field in schema:
            kind = _kind(field.type)
            before = self.columns.setdefault(field.name, kind)
            if before != kind:
                self.columns[field.name] = "text"
        self.score = facts(schema.metadata).get("score") or self.score
        self.count += rows
        self.sources.append(source)

    def _leave_out(self, path: Path, error: Exception) -> None:
        self.broken += 1
        self._complain(f"left out: {path} cannot be read: {first_line(error)}")

    def rows(self, first: int | None = None, last: int | None = None, *, newest: bool = False) -> Iterator[dict[str, Cell]]:
        """Yield the rows of the steps from `first` to `last`, oldest first, or newest first."""
        for source in reversed(self.sources) if newest else self.sources:
            if first is not None and source.step is not None and source.step < first:
                continue  # not even opened
            try:
                found = read(source.path)[1]
            except errors() as error:
                self._leave_out(source.path, error)
                continue
            for row in reversed(found) if newest else found:
                step = row.get("step")
                if (first is None and last is None) or (isinstance(step, int) and _within(step, first, last)):
                    yield row


def _within(step: int, first: int | None, last: int | None) -> bool:
    return (first is None or step >= first) and (last is None or step <= last)


def _kind(of: pa.DataType) -> Kind:
    import pyarrow as pa

    if pa.types.is_boolean(of):
        return "flag"
    return "number" if pa.types.is_integer(of) or pa.types.is_floating(of) else "text"


def find(run: Path, complain: Complain) -> Archive:
    """Open the tables of a run folder, or one Parquet file.

    Raises:
        ConfigError: there is no such run, it has no table, or none that can be read.
    """
    found = [Source(path, step) for step, path in tables(run / FOLDER)]
    if run.is_file() and run.suffix == ".parquet":
        found = [Source(run, None)]
    if not found:
        raise _nothing(run)
    archive = Archive(found, complain)
    if not archive.sources:
        raise ConfigError(f"no table of {run} can be read", hint="the lines above say why")
    return archive


def _nothing(run: Path) -> ConfigError:
    """Why a run has no table, as far as its manifest tells, and what to do about it."""
    if not run.exists():
        return ConfigError(f"there is no run {run}", hint="longline runs FOLDER lists those below a folder")
    manifest = _manifest(run)
    if manifest is None:
        return ConfigError(f"{run} is not a run folder: it has no run.json", hint="give the output_dir of a run")
    enabled = [plugin.get("name") for plugin in manifest.get("plugins", []) if isinstance(plugin, dict)]
    method, status = manifest.get("method"), manifest.get("status")
    if _compares_none(str(method)):
        return ConfigError(f"{run} has no completions: method {method} compares none")
    if FOLDER not in enabled:
        return ConfigError(f"{run} has no completions: the plugin was not on", hint=f"add {FOLDER} to plugins: of its config")
    if status == "running":
        return ConfigError(f"{run} has no table yet", hint="the first one comes after `every` steps, or when training ends")
    return ConfigError(f"{run} has no table of completions: it ended as {status} before rows came")


def _compares_none(method: str) -> bool:
    """Whether a method tells of no rows; of one that is not installed any more nobody knows."""
    try:
        return methods.find(method).completions is None
    except ConfigError:
        return False


def _manifest(run: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

"""All samples of a split as flat columns, and the rows that are made of a choice of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from longline.data.packing import Packs, edges_of, ranges
from longline.data.store.columns import Growing, gather
from longline.data.store.further import Collecting, arrow_array, lists, size_of, stored_type
from longline.events import IGNORED

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from longline.data.kinds import Kind
    from longline.data.store.further import Values
    from longline.data.values import Ints, Longs, Origin, Packing, Tokens
    from longline.events import Column

BATCH_BYTES = 1 << 23
"""About how many bytes one Arrow record batch holds, a million tokens: list offsets are 32-bit, and memory stays bounded."""
TOKEN_BYTES = 8
"""What the id and the label of a token take."""
FLUSH_ROWS = 1000
"""After how many samples they are moved into the columns."""
BIG = {"ids": np.int32, "labels": np.int32}
"""The columns that grow with the texts; in a file if there is a folder for them."""
SMALL = {"lengths": np.int64, "trained": np.int32, "files": np.int32, "lines": np.int64, "sources": np.int32, "rows": np.int64}
"""The columns with one value for each sample."""


@dataclass(slots=True)
class Samples:
    """Tokens of many samples. Sample i is ids[starts[i]:starts[i] + lengths[i]]; it came from lines[i] of files[i].

    `rows` numbers the rows that samples were kept of, from 0: those of a row that was split have one number and stand together.
    `beside` has what the kind of row keeps beside tokens, `kept` the further columns.
    """

    ids: Ints
    labels: Ints
    starts: Longs
    lengths: Longs
    trained: Ints
    files: Ints
    lines: Longs
    sources: Ints
    rows: Longs
    beside: dict[str, Values]
    kept: dict[str, Values]
    mapped: dict[str, mmap.mmap | None]

    def __len__(self) -> int:
        return len(self.lengths)


class Builder:
    """Collects samples of several sources into one Samples; in files of `folder`, if there is one."""

    def __init__(self, kind: Kind, folder: Path | None = None, name: str = "") -> None:
        self._folder, self._name = folder, name
        self._big = {key: Growing(dtype, folder / f"{name}.{key}" if folder else None) for key, dtype in BIG.items()}
        self._small = {key: Growing(dtype) for key, dtype in SMALL.items()}
        self._beside = {
            column.name: Collecting(column, folder, f"{name}.beside-{number}") for number, column in enumerate(kind.beside)
        }
        self._kept: dict[str, Collecting] = {}
        self._waiting: list[tuple[Tokens, int, Origin, int, int, Mapping[str, Any], Mapping[str, Any]]] = []
        self._row = -1

    def keep(self, columns: Sequence[Column]) -> None:
        """Collect these further columns, too; they are known before the first sample is added."""
        for number, column in enumerate(columns):
            if column.name not in self._kept:
                self._kept[column.name] = Collecting(column, self._folder, f"{self._name}.kept-{number}")

    def add(
        self,
        tokens: Tokens,
        trained: int,
        origin: Origin,
        source: int,
        beside: Mapping[str, Any],
        kept: Mapping[str, Any],
        *,
        further: bool = False,
    ) -> None:
        """Append one sample; a `further` one is of the same row as the one before."""
        self._row += not further
        # A call of numpy for each sample would cost more than the sample; so they wait for each other.
        self._waiting.append((tokens, trained, origin, source, self._row, beside, kept))
        if len(self._waiting) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Move what waits into the columns."""
        if not self._waiting:
            return
        tokens, trained, origins, sources, rows, beside, kept = zip(*self._waiting, strict=True)
        self._waiting.clear()
        self._big["ids"].extend(np.concatenate([one.ids for one in tokens]))
        self._big["labels"].extend(np.concatenate([one.labels for one in tokens]))
        small = {"lengths": [len(one.ids) for one in tokens], "trained": trained, "sources": sources, "rows": rows}
        small |= {"files": [origin.file for origin in origins], "lines": [origin.line for origin in origins]}
        for key, values in small.items():
            self._small[key].extend(values)
        for collected, given in ((self._beside, beside), (self._kept, kept)):
            for name, column in collected.items():
                column.extend([values[name] for values in given])

    def close(self) -> None:
        """Let go of the files."""
        columns: list[Growing | Collecting] = [*self._big.values(), *self._beside.values(), *self._kept.values()]
        for column in columns:
            column.close()

    def build(self) -> Samples:
        """Everything added so far, as flat columns; nothing may be added any more."""
        self._flush()
        big = {key: column.whole() for key, column in self._big.items()}
        small: dict[str, NDArray[Any]] = {key: column.whole()[0] for key, column in self._small.items()}
        return Samples(
            **{key: values for key, (values, _) in big.items()},
            starts=edges_of(small["lengths"])[:-1],
            **small,
            beside={name: column.whole() for name, column in self._beside.items()},
            kept={name: column.whole() for name, column in self._kept.items()},
            mapped={key: mapped for key, (_, mapped) in big.items()},
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples become rows of prepared data: their kind, whether they are packed, and the further columns."""

    kind: Kind
    packing: Packing | None = None
    columns: tuple[Column, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns of prepared data."""
        schema = self.kind.schema(self.packing)
        for column in self.columns:
            schema = schema.append(pa.field(column.name, stored_type(column, packed=self.packing is not None)))
        return schema


def record_batches(samples: Samples, rows: Packs, numbers: Ints, layout: Layout) -> Iterator[pa.RecordBatch]:
    """The rows of a data set, each made of the samples that it lists; `numbers[i]` is what sample i is called in row_ids."""
    tokens = edges_of(samples.lengths[rows.members])[rows.edges]
    sizes = tokens * (TOKEN_BYTES + size_of(layout.columns, "token")) + rows.edges * size_of(layout.columns, "row")
    schema = layout.schema
    start = 0
    while start < len(rows):
        end = max(int(np.searchsorted(sizes, sizes[start] + BATCH_BYTES, side="right")) - 1, start + 1)
        part = Packs(rows.members[rows.edges[start] : rows.edges[end]], rows.edges[start : end + 1] - rows.edges[start])
        columns = _columns(samples, part, numbers, layout)
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
        start = end


def _columns(samples: Samples, rows: Packs, numbers: Ints, layout: Layout) -> dict[str, pa.Array]:
    """The columns of one batch; the gather is one numpy operation for all its tokens."""
    members = rows.members
    lengths = samples.lengths[members]
    positions = ranges(samples.starts[members], lengths)
    bounds = edges_of(lengths)[rows.edges].astype(np.int32)
    edges = rows.edges.astype(np.int32)
    labels = gather(samples.labels, positions, samples.mapped.get("labels"))
    # Nothing stands before the first token that would predict it: told of joined documents here, where a row begins.
    labels[bounds[:-1]] = IGNORED
    columns = {
        "input_ids": lists(bounds, gather(samples.ids, positions, samples.mapped.get("ids"))),
        "labels": lists(bounds, labels),
        "length": pa.array(np.diff(bounds)),
        "row_ids": lists(edges, numbers[members]),
        **layout.kind.arrays(samples, rows, lengths, layout.packing),
    }
    for column in layout.columns:
        token = column.align == "token"
        values = arrow_array(column, samples.kept[column.name].taken(positions if token else members))
        columns[column.name] = lists(bounds if token else edges, values) if token or layout.packing else values
    return columns

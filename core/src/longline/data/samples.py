"""All samples of a split as flat columns, and the data set that is made of a choice of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from longline.data.prepared import PACKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from longline.data.prepared import Layout
    from longline.data.prompts import PromptRow
    from longline.data.tokenize import Ints

Longs = NDArray[np.int64]
IGNORED = -100
"""The label of a token that is not learnt."""
BATCH_TOKENS = 1 << 22
"""About how many tokens one Arrow record batch holds: list offsets are 32-bit, and memory stays bounded."""

PADDED_SCHEMA = pa.schema(
    {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "length": pa.int32(), "row_ids": pa.list_(pa.int32())}
)
PACKED_SCHEMA = PADDED_SCHEMA.append(pa.field("seq_lengths", pa.list_(pa.int32())))
SCHEMAS: dict[Layout, pa.Schema] = {
    "padded": PADDED_SCHEMA,
    "rows": PACKED_SCHEMA,
    "flat": PACKED_SCHEMA,
    "pairs": PACKED_SCHEMA,
    "labelled": PADDED_SCHEMA.append(pa.field("label", pa.bool_())),
    "prompts": PADDED_SCHEMA.remove(1).append(pa.field("row", pa.large_string())),
}
"""The columns of a data set in each layout."""
Extra: TypeAlias = "int | bool | PromptRow | None"
"""What a sample has beside its tokens: of a pair how many tokens are the chosen one's, a label, or a prompt's row."""


@dataclass(slots=True)
class Samples:
    """Tokens of many samples end to end. Sample i is ids[offsets[i]:offsets[i + 1]]; it came from lines[i] of files[i]."""

    ids: Ints
    labels: Ints
    offsets: Longs
    trained: Longs
    files: Ints
    lines: Longs
    sources: Ints
    extras: list[Extra]

    @property
    def lengths(self) -> Longs:
        """Tokens in each sample."""
        return np.diff(self.offsets)

    def widths(self, layout: Layout) -> Longs:
        """How long a row of the batch each sample needs: of a pair, the longer one."""
        if layout != "pairs":
            return self.lengths
        heads = np.array(self.extras, dtype=np.int64)
        longer: Longs = np.maximum(heads, self.lengths - heads)
        return longer

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(slots=True)
class Builder:
    """Collects samples of several sources into one Samples."""

    ids: list[Ints] = field(default_factory=list)
    labels: list[Ints] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)

    def add(self, ids: Ints, labels: Ints, trained: int, file: int, line: int, source: int, extra: Extra = None) -> None:
        """Append one sample."""
        self.ids.append(ids)
        self.labels.append(labels)
        self.lengths.append(len(ids))
        self.trained.append(trained)
        self.files.append(file)
        self.lines.append(line)
        self.sources.append(source)
        self.extras.append(extra)

    def build(self) -> Samples:
        """Everything added so far, as flat columns; the parts are given up."""
        empty = np.zeros(0, dtype=np.int32)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.lengths, dtype=np.int64)])
        ids = np.concatenate([empty, *self.ids])
        self.ids.clear()
        labels = np.concatenate([empty, *self.labels])
        self.labels.clear()
        return Samples(
            ids,
            labels,
            offsets,
            np.array(self.trained, dtype=np.int64),
            np.array(self.files, dtype=np.int32),
            np.array(self.lines, dtype=np.int64),
            np.array(self.sources, dtype=np.int32),
            self.extras,
        )


def record_batches(
    samples: Samples, rows: Sequence[Sequence[int]] | Sequence[Longs], numbers: Longs, *, layout: Layout
) -> Iterator[pa.RecordBatch]:
    """The rows of a data set, each made of the samples that it lists; `numbers[i]` is what sample i is called in row_ids."""
    lengths = samples.lengths
    start, count = 0, 0
    for end, row in enumerate(rows, start=1):
        count += int(sum(lengths[member] for member in row))
        if count >= BATCH_TOKENS or end == len(rows):
            yield _record_batch(samples, rows[start:end], numbers, layout)
            start, count = end, 0


def _record_batch(
    samples: Samples, rows: Sequence[Sequence[int]] | Sequence[Longs], numbers: Longs, layout: Layout
) -> pa.RecordBatch:
    """One batch; the gather is one numpy operation for all its tokens."""
    members = np.fromiter((member for row in rows for member in row), dtype=np.int64)
    lengths = samples.lengths[members]
    sizes = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    ends = np.cumsum(lengths)
    positions = np.arange(int(ends[-1]), dtype=np.int64) + np.repeat(samples.offsets[members] - (ends - lengths), lengths)
    edges = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    bounds = np.concatenate([np.zeros(1, dtype=np.int64), ends])[edges].astype(np.int32)
    edges = edges.astype(np.int32)
    columns = {
        "input_ids": _lists(bounds, samples.ids[positions]),
        "labels": _lists(bounds, samples.labels[positions]),
        "length": pa.array(np.diff(bounds)),
        "row_ids": _lists(edges, numbers[members].astype(np.int32)),
    }
    if layout in PACKED:
        columns["seq_lengths"] = _lists(edges, lengths.astype(np.int32))
    elif layout != "padded":
        columns |= _beside(samples, members, lengths, layout)
    schema = SCHEMAS[layout]
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _beside(samples: Samples, members: Longs, lengths: Longs, layout: Layout) -> dict[str, pa.Array]:
    """What a row of one sample has beside its tokens."""
    extras = [samples.extras[member] for member in members]
    if layout == "labelled":
        return {"label": pa.array(extras, type=pa.bool_())}
    if layout == "prompts":
        return {"row": pa.array([extra.text for extra in extras], type=pa.large_string())}
    heads = np.array(extras, dtype=np.int32)
    both = np.stack([heads, lengths.astype(np.int32) - heads], axis=1)
    edges = np.arange(0, 2 * len(extras) + 1, 2, dtype=np.int32)
    return {"seq_lengths": _lists(edges, both.ravel()), "length": pa.array(both.max(axis=1))}


def _lists(offsets: Ints, values: Ints) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def trained_tokens(labels: Ints) -> int:
    """How many labels are learnt."""
    return int(np.count_nonzero(labels != IGNORED))

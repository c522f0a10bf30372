"""All samples of a split as flat columns, and the data set that is made of a choice of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from longline.data.columns import Column, forget, gather
from longline.data.packing import Packs, edges_of, ranges
from longline.data.prepared import PACKED
from longline.data.prompts import PromptRow

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator
    from pathlib import Path

    from longline.data.prepared import Layout
    from longline.data.prompts import Kind
    from longline.data.tokenize import Ints

Longs = NDArray[np.int64]
IGNORED = -100
"""The label of a token that is not learnt."""
BATCH_TOKENS = 1 << 20
"""About how many tokens one Arrow record batch holds: list offsets are 32-bit, and memory stays bounded."""
FLUSH_ROWS = 1000
"""After how many samples they are moved into the columns."""

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
BIG = {"ids": np.int32, "labels": np.int32, "texts": np.uint8}
"""The columns that grow with the texts; in a file if there is a folder for them."""
SMALL = {
    "lengths": np.int64,
    "trained": np.int32,
    "files": np.int32,
    "lines": np.int64,
    "sources": np.int32,
    "extras": np.int32,
    "sizes": np.int32,
}
"""The columns with one value for each sample; `sizes` is that of its text in bytes."""


@dataclass(slots=True)
class Samples:
    """Tokens of many samples end to end. Sample i is ids[offsets[i]:offsets[i + 1]]; it came from lines[i] of files[i].

    `extras` are numbers: how many tokens of a pair are the chosen one's, or a label. Of a prompt it is the kind of its row in
    `kinds`, and the row is texts[text_offsets[i]:text_offsets[i + 1]], with `fillings` for the columns that a kind lacks.
    """

    ids: Ints
    labels: Ints
    texts: NDArray[np.uint8]
    offsets: Longs
    text_offsets: Longs
    trained: Ints
    files: Ints
    lines: Longs
    sources: Ints
    extras: Ints
    kinds: list[Kind]
    fillings: list[str] = field(default_factory=list)
    mapped: dict[str, mmap.mmap | None] = field(default_factory=dict)

    @property
    def lengths(self) -> Longs:
        """Tokens in each sample."""
        return np.diff(self.offsets)

    def widths(self, layout: Layout) -> Longs:
        """How long a row of the batch each sample needs: of a pair, the longer one."""
        if layout != "pairs":
            return self.lengths
        longer: Longs = np.maximum(self.extras, self.lengths - self.extras)
        return longer

    def row(self, number: int) -> str:
        """The row of a prompt as JSON, with all columns."""
        text = self.texts[self.text_offsets[number] : self.text_offsets[number + 1]].tobytes().decode()
        filling = self.fillings[self.extras[number]]
        return f"{text[:-1]}{filling}}}" if filling else text

    def __len__(self) -> int:
        return len(self.lines)


class Builder:
    """Collects samples of several sources into one Samples; in files of `folder`, if there is one."""

    def __init__(self, folder: Path | None = None, name: str = "") -> None:
        self._big = {key: Column(dtype, folder / f"{name}.{key}" if folder else None) for key, dtype in BIG.items()}
        self._small = {key: Column(dtype) for key, dtype in SMALL.items()}
        self._kinds: dict[Kind, int] = {}
        self._waiting: dict[str, list[Any]] = {key: [] for key in (*BIG, *SMALL)}

    def add(self, ids: Ints, labels: Ints, trained: int, file: int, line: int, source: int, extra: Extra = None) -> None:
        """Append one sample."""
        text, number = b"", int(extra) if isinstance(extra, (int, bool)) else 0
        if isinstance(extra, PromptRow):
            text = extra.text.encode()
            number = self._kinds.setdefault((extra.columns, extra.chat), len(self._kinds))
        values = (ids, labels, text, len(ids), trained, file, line, source, number, len(text))
        for waiting, value in zip(self._waiting.values(), values, strict=True):
            waiting.append(value)
        if len(self._waiting["lines"]) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Move what waits into the columns."""
        waiting = self._waiting
        if waiting["lines"]:
            for key in ("ids", "labels"):
                self._big[key].extend(np.concatenate(waiting[key]))
            self._big["texts"].extend(np.frombuffer(b"".join(waiting["texts"]), dtype=np.uint8))
            for key, column in self._small.items():
                column.extend(waiting[key])
        for values in waiting.values():
            values.clear()

    def close(self) -> None:
        """Let go of the files."""
        for column in self._big.values():
            column.close()

    def build(self) -> Samples:
        """Everything added so far, as flat columns; nothing may be added any more."""
        self._flush()
        big = {key: column.whole() for key, column in self._big.items()}
        small = {key: column.whole()[0] for key, column in self._small.items()}
        return Samples(
            **{key: values for key, (values, _) in big.items()},
            offsets=edges_of(small.pop("lengths")),
            text_offsets=edges_of(small.pop("sizes")),
            **small,
            kinds=list(self._kinds),
            fillings=[""] * len(self._kinds),
            mapped={key: mapped for key, (_, mapped) in big.items()},
        )


def record_batches(samples: Samples, rows: Packs, numbers: Ints, *, layout: Layout) -> Iterator[pa.RecordBatch]:
    """The rows of a data set, each made of the samples that it lists; `numbers[i]` is what sample i is called in row_ids."""
    tokens = edges_of(samples.lengths[rows.members])[rows.edges]
    start = 0
    while start < len(rows):
        end = max(int(np.searchsorted(tokens, tokens[start] + BATCH_TOKENS, side="right")) - 1, start + 1)
        part = Packs(rows.members[rows.edges[start] : rows.edges[end]], rows.edges[start : end + 1] - rows.edges[start])
        yield _record_batch(samples, part, numbers, layout)
        if texts := samples.mapped.get("texts"):
            forget(texts)
        start = end


def _record_batch(samples: Samples, rows: Packs, numbers: Ints, layout: Layout) -> pa.RecordBatch:
    """One batch; the gather is one numpy operation for all its tokens."""
    members = rows.members
    starts = samples.offsets[members]
    lengths = samples.offsets[members + 1] - starts
    positions = ranges(starts, lengths)
    bounds = edges_of(lengths)[rows.edges].astype(np.int32)
    edges = rows.edges.astype(np.int32)
    columns = {
        "input_ids": _lists(bounds, gather(samples.ids, positions, samples.mapped.get("ids"))),
        "labels": _lists(bounds, gather(samples.labels, positions, samples.mapped.get("labels"))),
        "length": pa.array(np.diff(bounds)),
        "row_ids": _lists(edges, numbers[members]),
    }
    if layout in PACKED:
        columns["seq_lengths"] = _lists(edges, lengths.astype(np.int32))
    elif layout != "padded":
        columns |= _beside(samples, members, lengths, layout)
    schema = SCHEMAS[layout]
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _beside(samples: Samples, members: Longs, lengths: Longs, layout: Layout) -> dict[str, pa.Array]:
    """What a row of one sample has beside its tokens."""
    if layout == "prompts":
        return {"row": pa.array([samples.row(member) for member in members.tolist()], type=pa.large_string())}
    extras = samples.extras[members]
    if layout == "labelled":
        return {"label": pa.array(extras.astype(bool))}
    both = np.stack([extras, lengths.astype(np.int32) - extras], axis=1)
    edges = np.arange(0, 2 * len(extras) + 1, 2, dtype=np.int32)
    return {"seq_lengths": _lists(edges, both.ravel()), "length": pa.array(both.max(axis=1))}


def _lists(offsets: Ints, values: Ints) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def trained_tokens(labels: Ints) -> int:
    """How many labels are learnt."""
    return int(np.count_nonzero(labels != IGNORED))

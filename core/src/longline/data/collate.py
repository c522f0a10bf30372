"""Rows of the prepared data set into one batch, as their kind says: the tools that kinds of rows make batches with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from longline.data.kinds.sample import SAMPLE
from longline.data.store.further import TEXTS
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from longline.data.kinds import Kind
    from longline.data.values import Longs, Packing
    from longline.events import Column


@dataclass(frozen=True, slots=True)
class Collator:
    """Make a batch of rows of a `kind`, whose class says what is in it; tensors are int64 unless it says otherwise.

    Each batch of tensors has `row_ids` [rows, most samples in a row], filled up with -1: which samples of the data set are in
    which row; and `token_count` [1]: how many tokens are no padding, those of the KL term left out.

    With `columns`, the further columns of the data, it has one dict of them under `columns`. What is aligned to tokens is
    [rows, longest(, k)] with as many rows as input_ids, packed `flat` [1, total(, k)]; what is aligned to rows [rows(, k)], or
    packed [rows, most samples in a row(, k)]; text is a list with one for each row, or packed a list of them.

    `pad_to_multiple_of` rounds the length up, but no row beyond `max_length`, where the model may have no positions.
    """

    pad_token_id: int
    kind: Kind = SAMPLE
    packing: Packing | None = None
    pad_to_multiple_of: int | None = None
    max_length: int | None = None
    columns: tuple[Column, ...] = ()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Collate `rows` of a data set of the same kind and packing."""
        return self.kind.collate(rows, self)

    def batch(self, kind: Kind, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The tensors of a kind, with what every batch of tensors has."""
        ids = [np.asarray(row["input_ids"], dtype=np.int64) for row in rows]
        labels = [np.asarray(row.get("labels", ()), dtype=np.int64) for row in rows]
        batch: dict[str, Any] = kind.tensors(rows, ids, labels, self)
        members = [np.atleast_1d(np.asarray(row["row_ids"], dtype=np.int64)) for row in rows]
        batch |= {"row_ids": _filled(members, max(map(len, members)), -1), "token_count": torch.tensor([sum(map(len, ids))])}
        if self.columns:
            batch["columns"] = {column.name: self._further(column, kind, rows) for column in self.columns}
        return batch

    def masked(self, ids: Sequence[Longs], labels: Sequence[Longs]) -> dict[str, torch.Tensor]:
        """Token ids with the masks that trl's trainers of preferences take."""
        return {
            "input_ids": self.stacked(ids, self.pad_token_id),
            "attention_mask": self.stacked([np.ones(len(row), dtype=np.int64) for row in ids], 0),
            "completion_mask": self.stacked([(row != IGNORED).astype(np.int64) for row in labels], 0),
        }

    def stacked(self, parts: Sequence[NDArray[Any]], fill: float, *, counting: bool = False) -> torch.Tensor:
        """What is aligned to tokens, padded at the end; flat: one behind the other. `counting` pads with 0, 1, 2 ..."""
        parts = [np.concatenate(parts)] if self.packing == "flat" else parts
        return _filled(parts, self._width(parts), fill, counting)

    def row_values(self, column: Column, rows: Sequence[Mapping[str, Any]]) -> Any:
        """A column with one value for each row."""
        values = [row[column.name] for row in rows]
        return values if column.dtype in TEXTS else torch.from_numpy(np.array(values, dtype=column.dtype))

    def _further(self, column: Column, kind: Kind, rows: Sequence[Mapping[str, Any]]) -> Any:
        """One further column."""
        if column.align == "row" and (not self.packing or column.dtype in TEXTS):
            return self.row_values(column, rows)
        shape = (-1,) if column.width is None else (-1, column.width)
        parts = [np.asarray(row[column.name], dtype=column.dtype).reshape(shape) for row in rows]
        if column.align == "row":
            return _filled(parts, max(map(len, parts)), column.fill)
        return self.stacked(kind.spread(rows, parts), column.fill)

    def _width(self, parts: Sequence[NDArray[Any]]) -> int:
        """The longest row, rounded up."""
        longest, step = max(map(len, parts)), self.pad_to_multiple_of or 1
        rounded = -(-longest // step) * step
        if self.max_length is None or self.packing == "flat":
            return rounded
        return max(longest, min(rounded, self.max_length))


def _filled(parts: Sequence[NDArray[Any]], width: int, fill: float, counting: bool = False) -> torch.Tensor:
    """Rows of equal width; `counting` fills with 0, 1, 2 ... so that padding is a sample of its own."""
    stacked = np.full((len(parts), width, *parts[0].shape[1:]), fill, dtype=parts[0].dtype)
    for line, part in zip(stacked, parts, strict=True):
        line[: len(part)] = part
        if counting:
            line[len(part) :] = np.arange(width - len(part))
    return torch.from_numpy(stacked)

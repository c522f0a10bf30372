"""Rows of the prepared data set into one batch of tensors, in the layout that the attention implementation isolates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from longline.data.samples import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Layout = Literal["padded", "rows", "flat"]


@dataclass(frozen=True, slots=True)
class Collator:
    """Make a batch. Every tensor is int64.

    - `padded`: input_ids, labels, attention_mask, each [rows, longest], padded at the end.
    - `rows`: input_ids, labels, position_ids, each [rows, longest]. Positions restart at every sample, and the padding of a row
      counts as one more sample. There is no attention_mask: transformers isolates samples by position ids only without one,
      and without a key-value cache (`use_cache=False`).
    - `flat`: the same three, each [1, total]: all samples one after another.

    Each has `row_ids` [rows, most samples in a row], filled up with -1: which samples of the data set are in which row; and
    `token_count` [1]: how many tokens are no padding.
    `pad_to_multiple_of` rounds the length up.
    """

    pad_token_id: int
    layout: Layout = "padded"
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate `rows`, which have input_ids, labels and row_ids, and seq_lengths when they are packs."""
        ids = [np.asarray(row["input_ids"], dtype=np.int64) for row in rows]
        labels = [np.asarray(row["labels"], dtype=np.int64) for row in rows]
        members = [np.atleast_1d(np.asarray(row["row_ids"], dtype=np.int64)) for row in rows]
        if self.layout == "padded":
            extra = {"attention_mask": ([np.ones(len(row), dtype=np.int64) for row in ids], 0)}
        else:
            extra = {"position_ids": ([_restarting(row) for row in rows], 0)}
        if self.layout == "flat":
            ids, labels = [np.concatenate(ids)], [np.concatenate(labels)]
            extra = {name: ([np.concatenate(parts)], fill) for name, (parts, fill) in extra.items()}
        width = self._width(ids)
        columns = {"input_ids": (ids, self.pad_token_id), "labels": (labels, IGNORED), **extra}
        batch = {name: _stack(parts, width, fill, name == "position_ids") for name, (parts, fill) in columns.items()}
        counted = torch.tensor([sum(map(len, ids))])
        return {**batch, "row_ids": _stack(members, max(map(len, members)), -1, False), "token_count": counted}

    def _width(self, ids: Sequence[NDArray[np.int64]]) -> int:
        """The longest row, rounded up."""
        longest, step = max(map(len, ids)), self.pad_to_multiple_of or 1
        return -(-longest // step) * step


def _restarting(row: Mapping[str, Any]) -> NDArray[np.int64]:
    """Position ids of a row that restart at each of its samples."""
    lengths = row.get("seq_lengths")
    return np.concatenate(
        [np.arange(length, dtype=np.int64) for length in ([len(row["input_ids"])] if lengths is None else lengths)]
    )


def _stack(parts: Sequence[NDArray[np.int64]], width: int, fill: int, counting: bool) -> torch.Tensor:
    """Rows of equal width; `counting` fills with 0, 1, 2 ... so that padding is a sample of its own."""
    stacked = np.full((len(parts), width), fill, dtype=np.int64)
    for line, part in zip(stacked, parts, strict=True):
        line[: len(part)] = part
        if counting:
            line[len(part) :] = np.arange(width - len(part))
    return torch.from_numpy(stacked)

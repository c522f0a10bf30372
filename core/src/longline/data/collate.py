"""Rows of the prepared data set into one batch of tensors, in the layout that the method and its attention ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from longline.data.samples import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longline.data.prepared import Layout

Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Collator:
    """Make a batch. Every tensor is int64 unless said otherwise.

    - `padded`: input_ids, labels, attention_mask, each [rows, longest], padded at the end.
    - `rows`: input_ids, labels, position_ids, each [rows, longest]. Positions restart at every sample, and the padding of a row
      counts as one more sample. There is no attention_mask: transformers isolates samples by position ids only without one,
      and without a key-value cache (`use_cache=False`).
    - `flat`: the same three, each [1, total]: all samples one after another.
    - `pairs`: input_ids, attention_mask, completion_mask (1 where a token is learnt), each [2 * rows, longest], padded at the
      end: first the chosen answers with their prompts, then the rejected ones in the same order.
    - `labelled`: the same three, each [rows, longest]; label, a bool for each row; and the three once more as KL_input_ids,
      KL_attention_mask, KL_completion_mask, in which a prompt is followed by the answer of the row before it (the first by
      the last one's), cut at `max_length` where it is given. That is the mismatch by which KTO estimates its KL term.
      An answer that truncation has cut is no longer here than in its own row.
    - `prompts`: no tensors, but for each row a mapping of `prompt` (text or messages), the other columns of the row and `row_ids`
      (one number): what trl's trainers that generate take.

    Each but the last has `row_ids` [rows, most samples in a row], filled up with -1: which samples of the data set are in which
    row; and `token_count` [1]: how many tokens are no padding, those of the KL term left out.
    `pad_to_multiple_of` rounds the length up, but no row beyond `max_length`, where the model
    may have no positions.
    """

    pad_token_id: int
    layout: Layout = "padded"
    pad_to_multiple_of: int | None = None
    max_length: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Collate `rows` of a data set that was prepared in the same layout: a dict of tensors, or a list for `prompts`."""
        if self.layout == "prompts":
            return [{**json.loads(row["row"]), "row_ids": int(row["row_ids"][0])} for row in rows]
        ids = [np.asarray(row["input_ids"], dtype=np.int64) for row in rows]
        labels = [np.asarray(row["labels"], dtype=np.int64) for row in rows]
        if self.layout == "pairs":
            heads = [int(row["seq_lengths"][0]) for row in rows]
            batch = self._masked(_halves(ids, heads), _halves(labels, heads))
        elif self.layout == "labelled":
            batch = self._labelled(rows, ids, labels)
        else:
            batch = self._samples(rows, ids, labels)
        members = [np.atleast_1d(np.asarray(row["row_ids"], dtype=np.int64)) for row in rows]
        counted = torch.tensor([sum(map(len, ids))])
        return {**batch, "row_ids": _stack(members, max(map(len, members)), -1, False), "token_count": counted}

    def _samples(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs]) -> dict[str, torch.Tensor]:
        """Samples to learn from, alone or packed."""
        if self.layout == "padded":
            extra = {"attention_mask": ([np.ones(len(row), dtype=np.int64) for row in ids], 0)}
        else:
            extra = {"position_ids": ([_restarting(row) for row in rows], 0)}
        if self.layout == "flat":
            ids, labels = [np.concatenate(ids)], [np.concatenate(labels)]
            extra = {name: ([np.concatenate(parts)], fill) for name, (parts, fill) in extra.items()}
        columns = {"input_ids": (ids, self.pad_token_id), "labels": (labels, IGNORED), **extra}
        width = self._width(ids)
        return {name: _stack(parts, width, fill, name == "position_ids") for name, (parts, fill) in columns.items()}

    def _labelled(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs]) -> dict[str, torch.Tensor]:
        """Answers with their labels, and each prompt with the answer of another row."""
        starts = [int(np.argmax(row != IGNORED)) for row in labels]
        other_ids, other_labels = (
            [
                np.concatenate([row[:start], parts[number - 1][starts[number - 1] :]])[: self.max_length]
                for number, (row, start) in enumerate(zip(parts, starts, strict=True))
            ]
            for parts in (ids, labels)
        )
        mismatched = {f"KL_{name}": part for name, part in self._masked(other_ids, other_labels).items()}
        wanted = torch.tensor([bool(row["label"]) for row in rows])
        return {**self._masked(ids, labels), "label": wanted, **mismatched}

    def _masked(self, ids: Sequence[Longs], labels: Sequence[Longs]) -> dict[str, torch.Tensor]:
        """Token ids with the masks that trl's trainers of preferences take."""
        width = self._width(ids)
        return {
            "input_ids": _stack(ids, width, self.pad_token_id, False),
            "attention_mask": _stack([np.ones(len(row), dtype=np.int64) for row in ids], width, 0, False),
            "completion_mask": _stack([(row != IGNORED).astype(np.int64) for row in labels], width, 0, False),
        }

    def _width(self, ids: Sequence[Longs]) -> int:
        """The longest row, rounded up."""
        longest, step = max(map(len, ids)), self.pad_to_multiple_of or 1
        rounded = -(-longest // step) * step
        if self.max_length is None or self.layout == "flat":
            return rounded
        return max(longest, min(rounded, self.max_length))


def _halves(parts: Sequence[Longs], heads: Sequence[int]) -> list[Longs]:
    """The first answers of all pairs, then the second ones."""
    firsts = [part[:head] for part, head in zip(parts, heads, strict=True)]
    return firsts + [part[head:] for part, head in zip(parts, heads, strict=True)]


def _restarting(row: Mapping[str, Any]) -> Longs:
    """Position ids of a row that restart at each of its samples."""
    lengths = row.get("seq_lengths")
    return np.concatenate(
        [np.arange(length, dtype=np.int64) for length in ([len(row["input_ids"])] if lengths is None else lengths)]
    )


def _stack(parts: Sequence[Longs], width: int, fill: int, counting: bool) -> torch.Tensor:
    """Rows of equal width; `counting` fills with 0, 1, 2 ... so that padding is a sample of its own."""
    stacked = np.full((len(parts), width), fill, dtype=np.int64)
    for line, part in zip(stacked, parts, strict=True):
        line[: len(part)] = part
        if counting:
            line[len(part) :] = np.arange(width - len(part))
    return torch.from_numpy(stacked)

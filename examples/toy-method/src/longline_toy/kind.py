"""The kind of row: several answers to one question, the best first."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from longline import Column
from longline.data.kinds import Kind, Shown
from longline.data.values import Tokens
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longline.data.collate import Collator
    from longline.data.values import Longs

LENGTHS = "seq_lengths"


class RankingKind(Kind):
    """Rankings: a row is every answer, each behind its question, one after another; `seq_lengths` has the tokens of each.

    A batch has answer_counts, int64 [rows], and input_ids, attention_mask, labels, each int64 [answers of all rows, longest],
    padded at the end: the answers of the first row from the best to the worst, then those of the second.
    """

    name: ClassVar[str] = "ranking"
    rows: ClassVar[str] = "rankings"
    unit: ClassVar[str] = "rankings"
    compares: ClassVar[bool] = True
    straddling: ClassVar[str] = "learnt"
    beside: ClassVar[tuple[Column, ...]] = (Column(LENGTHS, dtype="interned"),)  # a tuple; few are different

    # --- preparing --------------------------------------------------------------------------------

    def join(self, parts: Sequence[Tokens], beside: Mapping[str, Any]) -> tuple[Tokens, Mapping[str, Any]]:
        """One row of all answers."""
        joined = Tokens(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.labels for part in parts]),
            sum(part.terminators for part in parts),
            any(part.truncated for part in parts),
            any(part.straddles for part in parts),
            sum(part.whole for part in parts),
            {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        )
        return joined, {**beside, LENGTHS: tuple(len(part.ids) for part in parts)}

    def width(self, tokens: Tokens, beside: Mapping[str, Any]) -> int:
        """Tokens of the longest answer with its question."""
        return max(beside[LENGTHS])

    def fault(self, tokens: Tokens, beside: Mapping[str, Any]) -> str | None:
        """Nothing is left of one answer, or two are the same."""
        labels = [part[part != IGNORED] for part in _cut(tokens.labels, beside[LENGTHS])]
        if not all(len(part) for part in labels):
            return "untrained"
        return "identical" if len({part.tobytes() for part in labels}) < len(labels) else None

    def widths(self, samples: Any) -> Longs:
        """The longest answer of each ranking."""
        lengths = samples.beside[LENGTHS]
        longest: Longs = np.array([max(several) for several in lengths.known], dtype=np.int64)[lengths.values]
        return longest

    def further(self) -> dict[str, pa.DataType]:
        """The lengths of the answers."""
        return {LENGTHS: pa.list_(pa.int32())}

    def arrays(self, samples: Any, rows: Any, lengths: Longs, packing: Any) -> dict[str, pa.Array]:
        """The lengths of the answers; a ranking is as long as its longest."""
        several = samples.beside[LENGTHS].taken(rows.members)
        longest = pa.array([max(own) for own in several], type=pa.int32())
        return {LENGTHS: pa.array([list(own) for own in several], type=pa.list_(pa.int32())), "length": longest}

    # --- batches and preview ----------------------------------------------------------------------

    def tensors(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs], collator: Collator) -> Any:
        """All answers of all rows."""
        ids, labels = self.spread(rows, ids), self.spread(rows, labels)
        return {
            "answer_counts": torch.tensor([len(row[LENGTHS]) for row in rows]),
            "input_ids": collator.stacked(ids, collator.pad_token_id),
            "attention_mask": collator.stacked([np.ones(len(answer), dtype=np.int64) for answer in ids], 0),
            "labels": collator.stacked(labels, IGNORED),
        }

    def spread(self, rows: Sequence[Mapping[str, Any]], values: list[Any]) -> list[Any]:
        """What is aligned to the tokens of each row, by answers."""
        return [part for row, own in zip(rows, values, strict=True) for part in _cut(own, row[LENGTHS])]

    def shown(self, row: Mapping[str, Any]) -> list[Shown]:
        """Every answer, the last one as a bad one."""
        last = len(row[LENGTHS])
        return [
            Shown(length, f", answer {number} of {last}", bad=number == last)
            for number, length in enumerate(row[LENGTHS], start=1)
        ]

    def values(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing: the lengths are seen."""
        return {}


def _cut(values: Any, lengths: Sequence[int]) -> list[Any]:
    """Values of a row's tokens, by answers."""
    return [values[start:end] for start, end in pairwise(accumulate(map(int, lengths), initial=0))]


RANKING = RankingKind()

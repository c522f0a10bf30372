"""Two answers to one prompt, the better one first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from longline.data.kinds.base import Kind, Shown
from longline.data.store.further import lists
from longline.data.values import Piece, RowError, Tokens
from longline.events import IGNORED, Column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longline.config.sections import TrainOn
    from longline.data.collate import Collator
    from longline.data.masks import ChatMasker
    from longline.data.packing import Packs
    from longline.data.store.samples import Samples
    from longline.data.values import Longs, Packing, Sample, Written


class PairKind(Kind):
    """Pairs: a row is the chosen answer with its prompt, of `first` tokens, and behind it the rejected one with the same prompt.

    A batch has input_ids, attention_mask, completion_mask (1 where a token is learnt), each int64 [2 * rows, longest], padded at
    the end: first the chosen answers, then the rejected ones in the same order.
    """

    name: ClassVar[str] = "pair"
    rows: ClassVar[str] = "pairs"
    unit: ClassVar[str] = "pairs"
    compares: ClassVar[bool] = True
    straddling: ClassVar[str] = "learnt in both"
    beside: ClassVar[tuple[Column, ...]] = (Column("first", dtype="int32"),)

    def write(self, sample: Sample, masker: ChatMasker | None, train_on: TrainOn) -> list[Written]:
        """Both answers, behind the same text."""
        chosen, rejected = super().write(sample, masker, train_on)
        # Compared as text: the loss takes both for answers to one prompt, and could not tell that they are not.
        if _before(chosen) != _before(rejected):
            raise RowError("the chat template writes the prompt in front of one answer otherwise than in front of the other")
        return [chosen, rejected]

    def join(self, parts: Sequence[Tokens], beside: Mapping[str, Any]) -> tuple[Tokens, Mapping[str, Any]]:
        """One row of two answers."""
        chosen, rejected = parts
        # With nothing learnt in one of them there is no place where answers begin; such a pair is left out by `fault`.
        if all((tokens.labels != IGNORED).any() for tokens in parts):
            _share_prompt(chosen, rejected)
        joined = Tokens(
            np.concatenate([chosen.ids, rejected.ids]),
            np.concatenate([chosen.labels, rejected.labels]),
            chosen.terminators + rejected.terminators,
            chosen.truncated or rejected.truncated,
            chosen.straddles or rejected.straddles,
            chosen.whole + rejected.whole,
            {name: np.concatenate([values, rejected.columns[name]]) for name, values in chosen.columns.items()},
        )
        return joined, {**beside, "first": len(chosen.ids)}

    def width(self, tokens: Tokens, beside: Mapping[str, Any]) -> int:
        """Tokens of the longer one."""
        first: int = beside["first"]
        return max(first, len(tokens.ids) - first)

    def fault(self, tokens: Tokens, beside: Mapping[str, Any]) -> str | None:
        """Nothing is learnt of one of them, or nothing tells them apart."""
        first = beside["first"]
        if not all((part != IGNORED).any() for part in (tokens.labels[:first], tokens.labels[first:])):
            return "untrained"
        return "identical" if np.array_equal(tokens.ids[:first], tokens.ids[first:]) else None

    def widths(self, samples: Samples) -> Longs:
        """The longer one of each pair."""
        firsts = samples.beside["first"].values
        longer: Longs = np.maximum(firsts, samples.lengths - firsts)
        return longer

    def further(self) -> dict[str, pa.DataType]:
        """The lengths of both answers."""
        return {"seq_lengths": pa.list_(pa.int32())}

    def arrays(self, samples: Samples, rows: Packs, lengths: Longs, packing: Packing | None) -> dict[str, pa.Array]:
        """The lengths of both answers; a pair is as long as the longer one."""
        firsts = samples.beside["first"].values[rows.members]
        both = np.stack([firsts, lengths.astype(np.int32) - firsts], axis=1)
        edges = np.arange(0, 2 * len(firsts) + 1, 2, dtype=np.int32)
        return {"seq_lengths": lists(edges, both.ravel()), "length": pa.array(both.max(axis=1))}

    def tensors(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs], collator: Collator) -> Any:
        """Chosen answers, then rejected ones."""
        return collator.masked(self.spread(rows, ids), self.spread(rows, labels))

    def spread(self, rows: Sequence[Mapping[str, Any]], values: list[Any]) -> list[Any]:
        """The first answers of all pairs, then the second ones."""
        firsts = [int(row["seq_lengths"][0]) for row in rows]
        chosen = [part[:first] for part, first in zip(values, firsts, strict=True)]
        return chosen + [part[first:] for part, first in zip(values, firsts, strict=True)]

    def shown(self, row: Mapping[str, Any]) -> list[Shown]:
        """Both answers, each with its prompt."""
        chosen, rejected = row["seq_lengths"]
        return [Shown(chosen, ", chosen"), Shown(rejected, ", rejected", bad=True)]

    def values(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing: the length of the first answer is seen."""
        return {}


def _before(piece: Written) -> Any:
    """The text in front of what is learnt first; of ready tokens the masked ones."""
    if not isinstance(piece, Piece):
        labels = piece.labels or []
        return piece.ids[: next((at for at, label in enumerate(labels) if label != IGNORED), 0)]
    return piece.text[: piece.spans[0][0]] if piece.spans else piece.text


def _share_prompt(chosen: Tokens, rejected: Tokens) -> None:
    """Let both answers begin behind the same tokens.

    Those at the prompt's end may depend on what follows it; from where the two part, all is learnt in both. The first token of
    a text never is: nothing predicts it.
    """
    learnt = [int(np.argmax(tokens.labels != IGNORED)) for tokens in (chosen, rejected)]
    start = min(learnt)
    differing = np.flatnonzero(chosen.ids[:start] != rejected.ids[:start])
    start = max(int(differing[0]) if len(differing) else start, 1)
    for tokens, first in zip((chosen, rejected), learnt, strict=True):
        tokens.labels[start:first] = tokens.ids[start:first]


PAIR = PairKind()

"""Rows that come as token ids: looked at where they are read, since a model finds out late, or learns something else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from longline.data.values import Longs, RowError, TokenRow, Tokens
from longline.events import IGNORED

if TYPE_CHECKING:
    from longline.data.notes import Notes
    from longline.data.tokenize import Encoder

OTHER_TOKENIZER = "another tokenizer made them: make them anew with the model's, or name theirs in model.tokenizer.path"


@dataclass(slots=True)
class TokenChecks:
    """The checks of one source; what is odd and yet possible goes to `notes`. `masked` is the negative number of its labels."""

    encoder: Encoder
    notes: Notes
    masked: int | None = None

    def check(self, row: TokenRow) -> None:
        """Look at a row. Raises RowError."""
        ids = self._known(row.ids, "token id", row.padding[0])
        if not len(ids):
            raise RowError("there are no token ids")
        if (ids < 0).any():
            raise RowError(_at("token id", ids, int((ids < 0).argmax()), row.padding[0], "which is negative"))
        labels = ids
        if row.labels is not None:
            labels = self._known(row.labels, "label", row.padding[0])
            if len(labels) != len(ids):
                raise RowError(f"{len(ids)} token ids, but {len(labels)} labels")
            self._masked(labels, row.padding[0])
            self._refuse_shifted(ids, labels)
            self._compare(ids, labels, row.padding[0])
        self._padding(ids, labels)

    def _known(self, values: Sequence[int], what: str, before: int) -> Longs:
        """Integers below the size of the vocabulary."""
        found = _integers(values, what, before)
        if len(found) and found.max() >= self.encoder.ids:
            text = f"which is not in the vocabulary of {self.encoder.ids}"
            raise RowError(_at(what, found, int((found >= self.encoder.ids).argmax()), before, text), OTHER_TOKENIZER)
        return found

    def _masked(self, labels: Longs, before: int) -> None:
        """What is not learnt is marked by the same negative number in all rows."""
        for number in np.unique(labels[labels < 0]).tolist():
            if self.masked not in (None, number):
                place = int((labels == number).argmax())
                raise RowError(_at("label", labels, place, before, f"where others are {self.masked}; -100 masks a token"))
            self.masked = number

    def _refuse_shifted(self, ids: Longs, labels: Longs) -> None:
        """Labels that were moved already: models move them themselves."""
        if ((labels == ids) | (labels < 0)).all():
            return
        for learnt, tokens, word in ((labels[:-1], ids[1:], "next"), (labels[1:], ids[:-1], "previous")):
            if (learnt >= 0).any() and ((learnt == tokens) | (learnt < 0)).all():
                raise RowError(
                    f"the labels are the {word} token ids; a label is the id at its own place, and the model moves it",
                    "move them back by one place, or leave the labels out where all tokens are learnt",
                )

    def _compare(self, ids: Longs, labels: Longs, before: int) -> None:
        other = (labels >= 0) & (labels != ids)
        if other.any():
            place = int(other.argmax())
            example = f"token {before + place + 1} is {ids[place]}, its label {labels[place]}"
            self.notes.add("labels are other tokens than those at their places", example)

    def _padding(self, ids: Longs, labels: Longs) -> None:
        """One end token ends a text; more of them, or any other padding, is none."""
        pad, own = self.encoder.pad, int(self.encoder.pad == self.encoder.eos)
        if pad is None or ids[-1] != pad:
            return
        padding = ids[::-1] == pad
        run = len(ids) if padding.all() else int(padding.argmin())
        learnt = int((labels[len(ids) - run + own :] >= 0).sum())
        if learnt and run > own:
            self.notes.add(
                "padding is learnt; an `attention_mask` or labels of -100 say where it is", f"{learnt} times the id {pad}"
            )


def _integers(values: Sequence[int], what: str, before: int) -> Longs:
    if not {*map(type, values)} <= {int}:
        for place, value in enumerate(values, start=before + 1):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise RowError(f"{what} {place} is {str(value)[:40]!r}, a {type(value).__name__}")
    try:
        return np.asarray(values, dtype=np.int64)
    except OverflowError:
        raise RowError(f"a {what} has more than 64 bits") from None


def _at(what: str, values: Longs, place: int, before: int, text: str) -> str:
    return f"{what} {before + place + 1} is {values[place]}, {text}"


def visible(mask: Any, key: str, count: int) -> slice:
    """Where an attention mask has tokens. Raises RowError for one of another length, or with a gap."""
    if not isinstance(mask, list) or not all(item in (0, 1) and isinstance(item, int) for item in mask):
        raise RowError(f"the field {key!r} must be a list of 0 and 1")
    if len(mask) != count:
        raise RowError(f"{count} token ids, but {len(mask)} items of {key!r}")
    if 1 not in mask:
        raise RowError(f"the field {key!r} hides every token")
    first, last = mask.index(1), count - mask[::-1].index(1)
    if 0 in mask[first:last]:
        raise RowError(
            f"the field {key!r} hides token {mask.index(0, first) + 1} between others; only padding at an end can go"
        )
    return slice(first, last)


def refuse_packed(positions: Any, seen: slice) -> None:
    """Raise RowError for position ids that start again: samples that share a row would be learnt as one."""
    places = positions[seen] if isinstance(positions, list) else []
    for number, (one, other) in enumerate(itertools.pairwise(places), start=seen.start + 2):
        if other != one + 1:
            raise RowError(f"'position_ids' start again at token {number}: give each sample a row; `data.packing` packs them")


def as_tokens(row: TokenRow, limit: int | None, *, first: bool) -> Tokens:
    """A row that came tokenised, cut like any other; its first label is masked unless something may stand before it."""
    ids = np.array(row.ids[:limit], dtype=np.int32)
    labels = ids.copy() if row.labels is None else np.array(row.labels[:limit], dtype=np.int32)
    labels[labels < 0] = IGNORED
    labels[0] = labels[0] if first else IGNORED
    return Tokens(ids, labels, truncated=limit is not None and len(row.ids) > limit, whole=len(row.ids), padding=row.padding)

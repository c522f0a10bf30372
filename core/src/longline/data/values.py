"""What one stage of preparing hands to the next: a row and its place, a sample, text with learnt spans, tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Row = Mapping[str, Any]
Message = dict[str, Any]
Span = tuple[int, int]
_SURROGATE = re.compile("[\ud800-\udfff]")
Packing = Literal["rows", "flat"]
"""How several samples share a row: in a batch of rows, or all one after another in a single one."""


class RowError(Exception):
    """A row can't be used; the message says why, the caller knows where. `hint`: what to do where all rows are like it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def refuse_halves(text: str, what: str) -> None:
    """Raise RowError for a text that holds something that is no character, which no tokenizer and no file takes."""
    if not text.isascii() and _SURROGATE.search(text):
        raise RowError(f"{what} holds half of a surrogate pair, which is no character")


def short(value: Any, most: int = 60) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[:most]} ..."


def alike(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row comes from: `file` is an index into the source's `files`, `line` counts from 1."""

    file: int
    line: int


@dataclass(slots=True)
class Piece:
    """Text with its learnt spans (of characters, sorted, apart) and where end-of-turn tokens start.

    `chat`: a chat template wrote it, special tokens and all. `plain` are the spans of special tokens that are text.
    """

    text: str
    spans: list[Span]
    terminators: list[int] = field(default_factory=list)
    chat: bool = False
    plain: list[Span] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as the template gets them, with one trained-or-masked override for each (None: as `train_on` says)."""

    messages: list[Message]
    overrides: list[bool | None]
    tools: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row that came as token ids; `labels` None means all are learnt.

    `padding` is how much was cut off in front and behind already; further columns that are aligned to tokens still have it.
    """

    ids: list[int]
    labels: list[int] | None
    padding: tuple[int, int] = (0, 0)


Part: TypeAlias = Conversation | Piece | TokenRow
Written: TypeAlias = Piece | TokenRow


@dataclass(frozen=True, slots=True)
class Sample:
    """What a format makes of a row: the parts that become tokens, as many as the kind of row has (of a pair two).

    `beside` is what the kind keeps beside tokens, by the names of its columns. `columns` are values of further columns that the
    format gives itself, in place of those of the row; one that is aligned to tokens is as long as all tokens of the sample, what
    is put in front and behind included, and of several parts it is a list with one for each.
    """

    parts: tuple[Part, ...]
    beside: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Tokens:
    """One sample, or one part of it: ids and labels (int32, equally long), and how many end-of-turn tokens are learnt.

    `straddles`: a token starts before a learnt span and ends in it; it is masked unless `encode` was told otherwise. `whole` is
    how many tokens there were before it was cut. `columns` are aligned to the ids, [tokens] or [tokens, k]; `ends` are the learnt
    end-of-turn tokens; `padding` is how much of a row that came padded was cut off in front and behind.
    """

    ids: Ints
    labels: Ints
    terminators: int = 0
    truncated: bool = False
    straddles: bool = False
    whole: int = 0
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    padding: tuple[int, int] = (0, 0)

"""What reward functions get of the row that a prompt came with: every column, as JSON."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from longline.data.chat import RowError
from longline.errors import DataError
from longline.methods.rewards import RESERVED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from longline.data.samples import Samples
    from longline.data.sources import Source


Kind: TypeAlias = tuple[tuple[str, ...], bool]
"""The columns of a row, and whether its prompt is messages."""


class PromptRow(NamedTuple):
    """A row as the JSON text of its columns, their names, and whether its `prompt` is messages."""

    text: str
    columns: tuple[str, ...]
    chat: bool

    @classmethod
    def of(cls, row: Mapping[str, Any], prompt: str | list[dict[str, Any]], *, chat: bool) -> PromptRow:
        """All columns of `row`, with `prompt` as the trainer takes it. Raises RowError for what JSON can't hold."""
        taken = sorted(RESERVED & row.keys())
        if taken:
            raise RowError(f"reward functions get something else under the name of the column {', '.join(taken)}; rename it")
        columns = {"prompt": prompt, **{name: value for name, value in row.items() if name != "prompt"}}
        try:
            text = json.dumps(columns, ensure_ascii=False, default=_plain)
        except RecursionError:
            raise RowError("the row is nested too deeply") from None
        return cls(text, tuple(columns), chat)


def _plain(value: Any) -> Any:
    """A value of Parquet or Arrow that JSON lacks."""
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise RowError(f"a value of type {type(value).__name__} can't be kept for reward functions")


def complete_rows(samples: Mapping[str, Samples], opened: Mapping[str, Sequence[Source]]) -> None:
    """Give every row the columns of all others, null where it had none: a batch has one list for each.

    Raises DataError where some prompts are text and others messages, which a batch can't mix.
    """
    kinds = [kind for split in samples.values() for kind in split.kinds]
    if len({chat for _, chat in kinds}) > 1:
        _refuse_mix(samples, opened)
    columns = dict.fromkeys(name for known, _ in kinds for name in known)
    for split in samples.values():
        split.fillings = [_filling(known, columns) for known, _ in split.kinds]


def _filling(known: Collection[str], columns: Iterable[str]) -> str:
    """The JSON text of the columns that are not known."""
    return "".join(f", {json.dumps(name, ensure_ascii=False)}: null" for name in columns if name not in known)


def _refuse_mix(samples: Mapping[str, Samples], opened: Mapping[str, Sequence[Source]]) -> None:
    """Name the first prompt of each kind."""
    places: dict[bool, str] = {}
    for split, own in samples.items():
        for kind, number in zip(*np.unique(own.extras, return_index=True), strict=True):
            source = opened[split][own.sources[number]]
            places.setdefault(own.kinds[kind][1], f"{source.files[own.files[number]]}:{own.lines[number]}")
    raise DataError(
        f"some prompts are text ({places[False]}) and others are messages ({places[True]}); a batch has one kind only",
        hint="`columns: {question: ...}` of a source makes messages of its text",
    )

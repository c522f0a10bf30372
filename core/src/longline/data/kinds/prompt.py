"""A prompt alone, which the policy answers in training, with the row that it came with: reward functions get every column."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from longline.data.kinds.base import Kind, need
from longline.data.values import Conversation, RowError, refuse_halves
from longline.errors import DataError
from longline.events import Column
from longline.methods.rewards import RESERVED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from longline.config.sections import TrainOn
    from longline.data.collate import Collator
    from longline.data.masks import ChatMasker
    from longline.data.packing import Packs
    from longline.data.sources import Source
    from longline.data.store.samples import Samples
    from longline.data.values import Longs, Packing, Part, Sample, Written


class PromptKind(Kind):
    """Prompts. Beside the tokens stand the JSON text of the row, and its `shape`: (names of columns, whether `prompt` is messages).

    A batch has no tensors. It is a list with a mapping for each row: `prompt` (text or messages), the other columns of the row and
    `row_ids` (one number), which is what trl's trainers that generate take.
    """

    name: ClassVar[str] = "prompt"
    rows: ClassVar[str] = "prompts"
    unit: ClassVar[str] = "prompts"
    learns: ClassVar[bool] = False
    cuts: ClassVar[bool] = False
    compares: ClassVar[bool] = True
    beside: ClassVar[tuple[Column, ...]] = (Column("row", dtype="text"), Column("shape", dtype="interned"))

    def write(self, sample: Sample, masker: ChatMasker | None, train_on: TrainOn) -> list[Written]:
        """The prompt; what goes to the reward functions must be text too."""
        refuse_halves(sample.beside["row"], "the row")
        return super().write(sample, masker, train_on)

    def written(self, part: Part, masker: ChatMasker | None, train_on: TrainOn) -> Written:
        """The prompt up to where the answer begins."""
        return need(masker).asked(part) if isinstance(part, Conversation) else part

    def complete(self, samples: Mapping[str, Samples], opened: Mapping[str, Sequence[Source]]) -> None:
        """Give every row the columns of all others, null where it had none: a batch has one list for each.

        Raises DataError where some prompts are text and others messages, which a batch can't mix.
        """
        shapes = [shape for split in samples.values() for shape in split.beside["shape"].known]
        if len({chat for _, chat in shapes}) > 1:
            _refuse_mix(samples, opened)
        columns = dict.fromkeys(name for known, _ in shapes for name in known)
        for split in samples.values():
            interned = split.beside["shape"]
            interned.known = [_filling(known, columns) for known, _ in interned.known]

    def further(self) -> dict[str, pa.DataType]:
        """The row as JSON text."""
        return {"row": pa.large_string()}

    def arrays(self, samples: Samples, rows: Packs, lengths: Longs, packing: Packing | None) -> dict[str, pa.Array]:
        """The row as JSON, with all columns."""
        texts, fillings = (samples.beside[name].taken(rows.members) for name in ("row", "shape"))
        whole = [f"{text[:-1]}{more}}}" if more else text for text, more in zip(texts, fillings, strict=True)]
        return {"row": pa.array(whole, type=pa.large_string())}

    def collate(self, rows: Sequence[Mapping[str, Any]], collator: Collator) -> Any:
        """The rows as mappings; a further column that the row lacks is one its format has computed."""
        names = [column.name for column in collator.columns]
        made = []
        for row in rows:
            own = json.loads(row["row"])
            further = {name: row[name] for name in names if name not in own}
            made.append({**own, **further, "row_ids": int(row["row_ids"][0])})
        return made

    def values(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The columns beside the prompt."""
        return {name: value for name, value in json.loads(row["row"]).items() if name != "prompt"}


def prompt_row(row: Mapping[str, Any], prompt: str | list[dict[str, Any]], *, chat: bool) -> dict[str, Any]:
    """What a prompt has beside its tokens: all columns of `row` as JSON text, with `prompt` as the trainer takes it.

    Raises RowError for what JSON can't hold.
    """
    taken = sorted(RESERVED & row.keys())
    if taken:
        raise RowError(f"reward functions get something else under the name of the column {', '.join(taken)}; rename it")
    columns = {"prompt": prompt, **{name: value for name, value in row.items() if name != "prompt"}}
    try:
        text = json.dumps(columns, ensure_ascii=False, default=_plain)
    except RecursionError:
        raise RowError("the row is nested too deeply") from None
    return {"row": text, "shape": (tuple(columns), chat)}


def _plain(value: Any) -> Any:
    """A value of Parquet or Arrow that JSON lacks."""
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise RowError(f"a value of type {type(value).__name__} can't be kept for reward functions")


def _filling(known: Collection[str], columns: Iterable[str]) -> str:
    """The JSON text of the columns that are not known."""
    return "".join(f", {json.dumps(name, ensure_ascii=False)}: null" for name in columns if name not in known)


def _refuse_mix(samples: Mapping[str, Samples], opened: Mapping[str, Sequence[Source]]) -> None:
    """Name the first prompt of each kind."""
    places: dict[bool, str] = {}
    for split, own in samples.items():
        shapes = own.beside["shape"]
        for shape, number in zip(*np.unique(shapes.values, return_index=True), strict=True):
            source = opened[split][own.sources[number]]
            places.setdefault(shapes.known[shape][1], f"{source.files[own.files[number]]}:{own.lines[number]}")
    raise DataError(
        f"some prompts are text ({places[False]}) and others are messages ({places[True]}); a batch has one kind only",
        hint="`columns: {question: ...}` of a source makes messages of its text",
    )


PROMPT = PromptKind()

"""What a kind of row is: all that preparing, batching and showing need to know of it, in one object.

The core's kinds have a file each beside this one. A plugin derives its own from `Kind`, and names an instance in its method and
in its formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from longline.data.store.further import arrow_type, beside_array, lists
from longline.data.values import Conversation, RowError
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from longline.config.sections import TrainOn
    from longline.data.collate import Collator
    from longline.data.masks import ChatMasker
    from longline.data.packing import Packs
    from longline.data.report import DataReport, SourceReport
    from longline.data.sources import Source
    from longline.data.store.samples import Samples
    from longline.data.values import Longs, Packing, Part, Sample, Tokens, Written
    from longline.events import Column


class Shown:
    """A stretch of a prepared row for `longline preview`: what it is called, how many tokens, whether it is a bad answer."""

    __slots__ = ("bad", "length", "name")

    def __init__(self, length: int, name: str = "", *, bad: bool = False) -> None:
        self.length, self.name, self.bad = length, name, bad


class Kind:
    """A kind of row: here one sample of tokens with labels, and beside them one value for each column of `beside`.

    The instances hold nothing of a run. What a subclass changes is attributes for most kinds, methods for the others.
    """

    name: ClassVar[str]
    """What messages call it."""
    rows: ClassVar[str]
    """What reports and plans call rows that are not packed."""
    unit: ClassVar[str] = ""
    """What counts are of, in the plural; left out they are of samples."""
    packs: ClassVar[bool] = False
    """Whether several may share a row, and one may be split over several."""
    learns: ClassVar[bool] = True
    """Whether tokens have labels; a row in which nothing is learnt is then left out."""
    cuts: ClassVar[bool] = True
    """Whether what is longer than max_length may be cut."""
    compares: ClassVar[bool] = False
    """Whether answers are compared: a token that joins the end of a prompt with the start of an answer is learnt."""
    straddling: ClassVar[str] = "masked"
    """What becomes of such a token, for people."""
    beside: ClassVar[tuple[Column, ...]] = ()
    """What a sample has beside tokens, one value each; here `dtype` may also be `interned`: values of any hashable type, of which
    there are few different ones."""

    def layout(self, packing: Packing | None) -> str:
        """What reports and plans call its rows."""
        return f"packed {packing}" if packing else self.rows

    # --- samples ----------------------------------------------------------------------------------

    def write(self, sample: Sample, masker: ChatMasker | None, train_on: TrainOn) -> list[Written]:
        """The parts of a sample as text with learnt spans, or as ready tokens. Raises RowError or TemplateError."""
        return [self.written(part, masker, train_on) for part in sample.parts]

    def written(self, part: Part, masker: ChatMasker | None, train_on: TrainOn) -> Written:
        """One part; conversations go through the chat template."""
        return need(masker).piece(part, train_on) if isinstance(part, Conversation) else part

    def join(self, parts: Sequence[Tokens], beside: Mapping[str, Any]) -> tuple[Tokens, Mapping[str, Any]]:
        """One row of the tokens of a sample's parts, and what it has beside them."""
        [tokens] = parts
        return tokens, beside

    def width(self, tokens: Tokens, beside: Mapping[str, Any]) -> int:
        """How long a row of the batch it needs; more than max_length is too long."""
        return len(tokens.ids)

    def fault(self, tokens: Tokens, beside: Mapping[str, Any]) -> str | None:
        """Why a sample is left out: the field of SourceReport that counts it, or None."""
        return "untrained" if self.learns and not (tokens.labels != IGNORED).any() else None

    def count(self, report: SourceReport, beside: Mapping[str, Any]) -> None:
        """Count what a sample that is kept has beside its tokens."""

    # --- reports ----------------------------------------------------------------------------------

    def detail(self, report: SourceReport) -> str:
        """What is said of the samples of a source beside their number."""
        return ""

    def source_warnings(self, report: SourceReport) -> Iterator[str]:
        """What is odd about a source."""
        if self.compares and report.kept and report.truncated_kept == report.kept:
            yield f"{report.name}: every answer is cut at max_length, so the model never sees one end"

    def warnings(self, report: DataReport) -> Iterator[str]:
        """What is odd about all of the data."""
        yield from ()

    # --- prepared data ----------------------------------------------------------------------------

    def complete(self, samples: Mapping[str, Samples], opened: Mapping[str, Sequence[Source]]) -> None:
        """Look at the samples of all splits once they are read. Raises DataError."""

    def widths(self, samples: Samples) -> Longs:
        """How long a row of the batch each sample needs."""
        return samples.lengths

    def schema(self, packing: Packing | None) -> pa.Schema:
        """The columns of prepared data, without further ones."""
        # Ids and counts fit, in half the disk and memory of int64; batches are int64, as models want them.
        integers = pa.list_(pa.int32())
        names = {
            "input_ids": integers,
            **({"labels": integers} if self.learns else {}),
            "length": pa.int32(),
            "row_ids": integers,
        }
        return pa.schema({**names, **({"seq_lengths": integers} if packing else self.further())})

    def further(self) -> dict[str, pa.DataType]:
        """The columns of prepared data for what stands beside tokens."""
        return {column.name: arrow_type(column) for column in self.beside}

    def arrays(self, samples: Samples, rows: Packs, lengths: Longs, packing: Packing | None) -> dict[str, pa.Array]:
        """The columns for rows of samples of these lengths, beside those that every kind has."""
        if packing:
            return {"seq_lengths": lists(rows.edges.astype(np.int32), lengths.astype(np.int32))}
        return {column.name: beside_array(samples.beside[column.name], column, rows.members) for column in self.beside}

    # --- batches and preview ----------------------------------------------------------------------

    def collate(self, rows: Sequence[Mapping[str, Any]], collator: Collator) -> Any:
        """A batch of rows."""
        return collator.batch(self, rows)

    def tensors(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs], collator: Collator) -> Any:
        """The dict of tensors that the method's trainer takes; ids and labels are those of the rows."""
        tensors = collator.masked(ids, labels)
        return {**tensors, **{column.name: collator.row_values(column, rows) for column in self.beside}}

    def spread(self, rows: Sequence[Mapping[str, Any]], values: list[Any]) -> list[Any]:
        """What is aligned to the tokens of each row, as the rows of the batch have it."""
        return values

    def shown(self, row: Mapping[str, Any]) -> list[Shown]:
        """The stretches of a prepared row, for people."""
        lengths = row.get("seq_lengths") or [len(row["input_ids"])]
        if len(lengths) == 1:
            return [Shown(lengths[0])]
        return [Shown(length, f", sample {number} of {len(lengths)}") for number, length in enumerate(lengths, start=1)]

    def example(self, row: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]] | None:
        """A prompt and the answer to it that is right, of a prepared row that is not packed; None where it has none.

        Here the answer is the last stretch that is learnt, and the prompt all that stands in front of it.
        """
        ids, labels = row["input_ids"], row["labels"]
        end = max((place for place, label in enumerate(labels) if label != IGNORED), default=-1) + 1
        start = end
        while start > 0 and labels[start - 1] != IGNORED:
            start -= 1
        return (ids[:start], ids[start:end]) if 0 < start < end else None

    def values(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a prepared row has beside its tokens, to show below them."""
        return {column.name: row[column.name] for column in self.beside if column.name in row}


def need(masker: ChatMasker | None) -> ChatMasker:
    """The masker. Raises RowError where the tokenizer has no chat template."""
    if masker is None:
        raise RowError("messages need a chat template, and the tokenizer has none")
    return masker

"""What preparing gives: the data sets of a run with the account of how they came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from longline.events import Column

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from numpy.typing import NDArray

    from longline.data.report import DataReport, SplitReport

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Origins:
    """Where each sample of a split came from, by its row id: `names` of files, and for each sample a name and a line.

    Pieces of a row that was split follow one another, and are numbered in what is told of them.
    """

    names: list[str]
    files: NDArray[np.int32]
    lines: NDArray[np.int64]

    def __getitem__(self, row_id: int) -> str:
        if not 0 <= row_id < len(self.lines):
            raise IndexError(f"no sample {row_id}: there are {len(self.lines)}")
        first = last = row_id
        while first > 0 and self._same(first - 1, row_id):
            first -= 1
        if last + 1 < len(self.lines) and self._same(last + 1, row_id):
            last += 1
        piece = f" (piece {row_id - first + 1})" if last > first else ""
        return f"{self.names[self.files[row_id]]}:{self.lines[row_id]}{piece}"

    def _same(self, other: int, row_id: int) -> bool:
        return bool(self.files[other] == self.files[row_id] and self.lines[other] == self.lines[row_id])


@dataclass(frozen=True)
class Prepared:
    """The data of a run, ready for a `Collator` of the same kind of row and packing.

    `train` and `eval` have the columns input_ids and, where tokens are learnt, labels (list<int32>, -100 where masked), length
    (int32), row_ids (list<int32>: the samples in the row); when packed seq_lengths (list<int32>), else what the kind of row has
    beside them; and the further columns, those of tokens and packed ones as lists.

    A pair is the chosen text and behind it the rejected one, of seq_lengths tokens, both with the prompt; its length is that of
    the longer one. A labelled answer has a bool column `label`. A prompt has no labels: input_ids are the prompt up to where the
    answer begins, and `row` is the JSON text of what reward functions get.
    """

    train: Dataset
    eval: Dataset | None
    report: DataReport
    origins: dict[str, Origins]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The further columns, as a `Collator` takes them."""
        return tuple(Column(**column) for column in self.report.columns)

    def origin(self, split: Split, row_id: int) -> str:
        """`file:line` of a sample. Raises KeyError for a split that is not there, IndexError for a sample that is not."""
        return self.origins[split][row_id]


@dataclass(slots=True)
class Table:
    """One split before it becomes a Dataset; its `batches` can be gone through once."""

    batches: Iterable[pa.RecordBatch]
    schema: pa.Schema
    report: SplitReport
    origins: Origins

"""One answer to a prompt, with a label that says whether it is a good one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from longline.data.kinds.base import Kind, Shown
from longline.events import IGNORED, Column

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from longline.data.collate import Collator
    from longline.data.report import DataReport, SourceReport
    from longline.data.values import Longs


class LabelledKind(Kind):
    """Labelled answers.

    A batch has input_ids, attention_mask, completion_mask (1 where a token is learnt), each int64 [rows, longest], padded at the
    end; label, a bool for each row; and the three once more as KL_input_ids, KL_attention_mask, KL_completion_mask, in which a
    prompt is followed by the answer of the row that it has as `mismatch`, or else of the row before it (the first by the last
    one's), cut at the collator's `max_length` where it is given. That is the mismatch by which KTO estimates its KL term. An answer
    that truncation has cut is no longer here than in its own row.
    """

    name: ClassVar[str] = "labelled"
    rows: ClassVar[str] = "labelled"
    unit: ClassVar[str] = "labelled answers"
    compares: ClassVar[bool] = True
    straddling: ClassVar[str] = "learnt"
    beside: ClassVar[tuple[Column, ...]] = (Column("label", dtype="bool"),)

    def count(self, report: SourceReport, beside: Mapping[str, Any]) -> None:
        """Count the good ones."""
        report.good += beside["label"]

    def detail(self, report: SourceReport) -> str:
        """How many are good."""
        return f"{report.good} good, {report.kept - report.good} bad"

    def warnings(self, report: DataReport) -> Iterator[str]:
        """KTO compares good answers with bad ones."""
        own = [source for source in report.sources if source.split == "train"]
        good, kept = sum(source.good for source in own), sum(source.kept for source in own)
        if kept and good in (0, kept):
            yield f"every label of the train data is {str(bool(good)).lower()}: kto wants both good and bad answers"

    def tensors(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs], collator: Collator) -> Any:
        """Answers with their labels, and each prompt with the answer of another row."""
        # trl writes the mismatched answers into the data before training; made in the batch they follow any batch size.
        starts = [int(np.argmax(row != IGNORED)) for row in labels]
        answers = [
            _answer(row["mismatch"]) if "mismatch" in row else (ids[at - 1][starts[at - 1] :], labels[at - 1][starts[at - 1] :])
            for at, row in enumerate(rows)
        ]
        other_ids, other_labels = (
            [
                np.concatenate([row[:start], answer[part]])[: collator.max_length]
                for row, start, answer in zip(parts, starts, answers, strict=True)
            ]
            for part, parts in enumerate((ids, labels))
        )
        mismatched = {f"KL_{name}": part for name, part in collator.masked(other_ids, other_labels).items()}
        return {**super().tensors(rows, ids, labels, collator), **mismatched}

    def shown(self, row: Mapping[str, Any]) -> list[Shown]:
        """The answer with its label."""
        return [Shown(len(row["input_ids"]), f", label {str(row['label']).lower()}", bad=not row["label"])]

    def values(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing: the label is in the heading."""
        return {}


def _answer(row: Mapping[str, Any]) -> tuple[Longs, Longs]:
    """The tokens of a row from the first learnt one on, and their labels."""
    ids, labels = (np.asarray(row[name], dtype=np.int64) for name in ("input_ids", "labels"))
    start = int(np.argmax(labels != IGNORED))
    return ids[start:], labels[start:]


LABELLED = LabelledKind()

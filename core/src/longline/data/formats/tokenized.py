"""Ready token ids, with labels or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.source_columns import has
from longline.data.kinds.sample import SAMPLE
from longline.data.values import RowError, Sample, TokenRow
from longline.events import IGNORED

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, TrainOn
    from longline.data.values import Row


def _sample(row: Row, names: ColumnsSection, train_on: TrainOn, vocabulary: int) -> Sample:
    ids = _integers(row, names.input_ids or "input_ids", 0)
    if max(ids) >= vocabulary:
        raise RowError(f"the token id {max(ids)} is not in the vocabulary of {vocabulary}")
    key = names.labels or "labels"
    if row.get(key) is None or train_on == "all":
        return Sample((TokenRow(ids, None),))
    labels = _integers(row, key, IGNORED)
    if len(labels) != len(ids):
        raise RowError(f"{len(ids)} token ids, but {len(labels)} labels")
    return Sample((TokenRow(ids, labels),))


def _integers(row: Row, key: str, least: int) -> list[int]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"the field {key!r} must be a list of integers that is not empty")
    if not all(type(item) is int and least <= item < 2**31 for item in value):
        raise RowError(f"the field {key!r} holds something that is no token id")
    return value


def _open(opened: Opened) -> Reader:
    return Reader(lambda row: _sample(row, opened.names, opened.train_on, opened.vocabulary))


TOKENIZED = Format(
    "tokenized",
    SAMPLE,
    "input_ids",
    ("completion", "all"),
    lambda found, names: has(found, names.input_ids, ("input_ids",)),
    _open,
)

"""Ready token ids, with labels or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.source_columns import has
from longline.data.kinds.sample import SAMPLE
from longline.data.ready import visible
from longline.data.values import RowError, Sample, TokenRow

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, TrainOn
    from longline.data.values import Row


def _sample(row: Row, names: ColumnsSection, train_on: TrainOn) -> Sample:
    ids = _listed(row, names.input_ids or "input_ids")
    key = names.labels or "labels"
    labels = None if row.get(key) is None or train_on == "all" else _listed(row, key)
    if labels is not None and len(labels) != len(ids):
        raise RowError(f"{len(ids)} token ids, but {len(labels)} labels")
    key = names.attention_mask or "attention_mask"
    if row.get(key) is None:
        return Sample((TokenRow(ids, labels),))
    seen = visible(row[key], key, len(ids))
    # Padding is cut off: what nobody attends to is no token of the text.
    return Sample((TokenRow(ids[seen], None if labels is None else labels[seen], (seen.start, len(ids) - seen.stop)),))


def _listed(row: Row, key: str) -> list[int]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"the field {key!r} must be a list of integers that is not empty")
    return value


def _open(opened: Opened) -> Reader:
    return Reader(lambda row: _sample(row, opened.names, opened.train_on))


TOKENIZED = Format(
    "tokenized",
    SAMPLE,
    "input_ids",
    ("completion", "all"),
    lambda found, names: has(found, names.input_ids, ("input_ids",)),
    _open,
)

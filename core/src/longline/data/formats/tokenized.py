"""Ready token ids, with labels or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.source_columns import has
from longline.data.kinds.sample import SAMPLE
from longline.data.ready import refuse_packed, visible
from longline.data.values import RowError, Sample, TokenRow

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, TrainOn
    from longline.data.values import Row


MASKS = ("completion_mask", "assistant_masks", "assistant_mask", "loss_mask")
"""Columns by which others say what is learnt."""


def _sample(row: Row, names: ColumnsSection, train_on: TrainOn) -> Sample:
    ids = _listed(row, names.input_ids or "input_ids")
    key = names.labels or "labels"
    labels = None if row.get(key) is None or train_on == "all" else _listed(row, key)
    if labels is not None and len(labels) != len(ids):
        raise RowError(f"{len(ids)} token ids, but {len(labels)} labels")
    if labels is None and train_on != "all" and (masks := [name for name in MASKS if row.get(name)]):
        raise RowError(f"{masks[0]!r} says what is learnt, and `labels` are read for that: the ids, and -100 where it is 0")
    key = names.attention_mask or "attention_mask"
    seen = slice(0, len(ids)) if row.get(key) is None else visible(row[key], key, len(ids))
    refuse_packed(row.get("position_ids"), seen)
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

"""Pieces of text one after another, each learnt or not as it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.messages import text_field
from longline.data.formats.source_columns import has
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Piece, RowError, Sample

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, TrainOn
    from longline.data.values import Row


def _sample(row: Row, names: ColumnsSection, train_on: TrainOn) -> Sample:
    key, text_key, flag_key = names.segments or "segments", names.text or "text", names.train or "train"
    parts = row.get(key)
    if not isinstance(parts, list) or not parts:
        raise RowError(f"the field {key!r} must be a list of pieces that is not empty")
    text, spans = "", []
    for number, part in enumerate(parts, start=1):
        if not isinstance(part, Mapping):
            raise RowError(f"piece {number} is a {type(part).__name__}, not a mapping")
        piece = text_field(part, text_key, empty=True)
        flag = part.get(flag_key)
        if not isinstance(flag, bool):
            raise RowError(f"piece {number}: {flag_key!r} must be true or false")
        if piece and (flag or train_on == "all"):
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    if not text.strip():
        raise RowError("all pieces are empty")
    return Sample((Piece(text, spans),))


def _open(opened: Opened) -> Reader:
    return Reader(lambda row: _sample(row, opened.names, opened.train_on))


SEGMENTS = Format(
    "segments",
    SAMPLE,
    "segments: a list of {text, train}",
    ("completion", "all"),
    lambda found, names: has(found, names.segments, ("segments",)),
    _open,
    adds_eos=False,  # the pieces are taken as they are: who writes them ends them
)

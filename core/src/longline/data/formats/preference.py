"""A prompt with a better and a worse answer."""

from __future__ import annotations

from dataclasses import replace

from longline.data.formats.answers import AnswerReader
from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.source_columns import CHOSEN, REJECTED, has, one_column, prompt_columns
from longline.data.kinds.pair import PAIR


def _open(opened: Opened) -> Reader:
    names, found, path = opened.names, opened.found, opened.path
    columns = replace(
        prompt_columns(names, found, path),
        chosen=one_column(names.chosen, CHOSEN, found, path, "chosen"),
        rejected=one_column(names.rejected, REJECTED, found, path, "rejected"),
    )
    reader = AnswerReader.of(opened, columns)
    return Reader(reader.pair, reader.note)


PREFERENCE = Format(
    "preference",
    PAIR,
    "chosen and rejected, and prompt or question unless both begin with it",
    ("completion",),
    lambda found, names: has(found, names.chosen, CHOSEN) and has(found, names.rejected, REJECTED),
    _open,
    certain=True,
)

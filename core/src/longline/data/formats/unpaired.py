"""A prompt with one answer, and whether it is a good one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from longline.data.formats.answers import AnswerReader
from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.source_columns import COMPLETION, has, has_messages, one_column, prompt_columns
from longline.data.kinds.labelled import LABELLED

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection


def _open(opened: Opened) -> Reader:
    names, found, path = opened.names, opened.found, opened.path
    columns = prompt_columns(names, found, path, held=True)
    completion = one_column(names.completion, COMPLETION, found, path, "completion")
    whole = columns.loose and names.completion is None and completion not in found
    columns = replace(columns, completion=None if whole else completion, label=names.label or "label")
    reader = AnswerReader.of(opened, columns)
    return Reader(reader.labelled, reader.note)


def _fits(found: Collection[str], names: ColumnsSection) -> bool:
    return has(found, names.label, ("label",)) and (has(found, names.completion, COMPLETION) or has_messages(names, found))


UNPAIRED = Format(
    "unpaired",
    LABELLED,
    "prompt or question, completion and label; or messages and label",
    ("completion",),
    _fits,
    _open,
    certain=True,
)

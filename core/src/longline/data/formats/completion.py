"""Raw text, all of which is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.messages import text_field
from longline.data.formats.source_columns import has
from longline.data.formats.texts import behind
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Sample

if TYPE_CHECKING:
    from longline.data.values import Row


def _open(opened: Opened) -> Reader:
    key = opened.names.text or "text"

    def sample(row: Row) -> Sample:
        return Sample((behind("", text_field(row, key)),))

    return Reader(sample)


COMPLETION = Format(
    "completion", SAMPLE, "text", ("all",), lambda found, names: has(found, names.text, ("text",)), _open, splits=True
)

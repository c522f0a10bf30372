"""Conversations as lists of messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.messages import ChatReader
from longline.data.formats.source_columns import has_messages
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Sample

if TYPE_CHECKING:
    from longline.data.values import Row


def _open(opened: Opened) -> Reader:
    chat = ChatReader.of(opened)

    def sample(row: Row) -> Sample:
        return Sample((chat.read(row),))

    return Reader(sample)


CHAT = Format(
    "chat",
    SAMPLE,
    "messages (or conversations): a list of messages",
    ("assistant", "last_assistant", "completion", "all"),
    lambda found, names: has_messages(names, found) and not (names.prompt or names.completion),
    _open,
    needs_template=True,
    ends_turns=True,
)

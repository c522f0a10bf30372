"""The format: a text with `User:` and `Bot:` lines is a conversation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from longline.data.formats import Format, Opened, Reader
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Conversation, Message, RowError, Sample

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from longline.config.sections import ColumnsSection
    from longline.data.values import Row

SPEAKERS = {"User": "user", "Bot": "assistant"}


def _open(opened: Opened) -> Reader:
    """What reads the rows of one source; `columns: {text: ...}` and `roles:` of the config are heeded."""
    column = opened.names.text or "text"
    speakers = {**SPEAKERS, **opened.roles}
    needs_answer = opened.train_on != "all"

    def sample(row: Row) -> Sample:
        text = row.get(column)
        if not isinstance(text, str):
            raise RowError(f"the field {column!r} is missing or no text (found: {', '.join(map(str, row)) or 'none'})")
        messages = _messages(text, speakers)
        if needs_answer and not any(message["role"] == "assistant" for message in messages):
            raise RowError("nobody answers: there is no turn of the Bot")
        return Sample((Conversation(messages, [None] * len(messages)),))

    return Reader(sample)


def _messages(text: str, speakers: Mapping[str, str]) -> list[Message]:
    """The turns of a text as messages. Raises RowError."""
    turn = re.compile(rf"^({'|'.join(map(re.escape, speakers))}):[ \t]*", flags=re.MULTILINE)
    before, *parts = turn.split(text.strip())
    if before.strip() or not parts:
        raise RowError(
            f"the text begins with {before.strip()[:20]!r}, and not with {' or '.join(f'{name}:' for name in speakers)}"
        )
    messages: list[Message] = []
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        number = len(messages) + 1
        if not content.strip():
            raise RowError(f"turn {number} ({name}) is empty")
        if messages and messages[-1]["role"] == speakers[name]:
            raise RowError(f"turn {number} is of {name}, who spoke just before")
        messages.append({"role": speakers[name], "content": content.strip()})
    return messages


def _fits(found: Collection[str], names: ColumnsSection) -> bool:
    """Whether the columns may be meant for this format."""
    return (names.text or "text") in found


DIALOG = Format(
    name="dialog",
    kind=SAMPLE,
    needs="text: lines that begin with User: or Bot:",
    train_on=("assistant", "last_assistant", "completion", "all"),
    fits=_fits,
    open=_open,
    needs_template=True,
    ends_turns=True,
)

"""The format: a row with a question and an answer is a conversation of two turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats import Format, Opened, Reader
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Conversation, Message, RowError, Sample

if TYPE_CHECKING:
    from collections.abc import Collection

    from longline.config.sections import ColumnsSection
    from longline.data.values import Row

QUESTION, ANSWER = "question", "answer"


def _open(opened: Opened) -> Reader:
    """What reads the rows of one source; the chat template, the mask, tokens and packing are Longline's."""

    def sample(row: Row) -> Sample:
        messages: list[Message] = [
            {"role": "user", "content": _text(row, QUESTION)},
            {"role": "assistant", "content": _text(row, ANSWER)},
        ]
        return Sample((Conversation(messages, [None] * len(messages)),))

    return Reader(sample)


def _text(row: Row, column: str) -> str:
    """A text of a row. Raises RowError, to which whoever reads the rows adds file and line."""
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        found = ", ".join(map(str, row)) or "none"
        raise RowError(f"the field {column!r} is missing, empty or no text (found: {found})")
    return text


def _fits(found: Collection[str], names: ColumnsSection) -> bool:
    """Whether columns of these names may be meant for this format."""
    return {QUESTION, ANSWER} <= set(found)


NEWNAME = Format(
    name="newname",
    kind=SAMPLE,
    needs="question, answer",
    train_on=("assistant", "last_assistant", "completion", "all"),
    fits=_fits,
    open=_open,
    needs_template=True,
    ends_turns=True,
)

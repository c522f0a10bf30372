"""A prompt and what follows it, both as text or both as lists of messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.messages import ChatReader, text_field
from longline.data.formats.source_columns import has
from longline.data.formats.texts import behind
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Conversation, RowError, Sample

if TYPE_CHECKING:
    from longline.config.sections import TrainOn
    from longline.data.values import Row


def _open(opened: Opened) -> Reader:
    chat, names, train_on = ChatReader.of(opened), opened.names, opened.train_on
    first, second = names.prompt or "prompt", names.completion or "completion"

    def sample(row: Row) -> Sample:
        prompt, completion = row.get(first), row.get(second)
        if isinstance(prompt, list) and isinstance(completion, list):
            return Sample((_conversation(row, prompt, completion, chat, train_on),))
        if isinstance(prompt, list) or isinstance(completion, list):
            raise RowError(f"{first!r} and {second!r} must both be text or both be lists of messages")
        chat.beside_text(row)
        return Sample((behind(text_field(row, first, empty=True), text_field(row, second), train_on),))

    return Reader(sample)


def _conversation(row: Row, prompt: list[Any], completion: list[Any], chat: ChatReader, train_on: TrainOn) -> Conversation:
    """All messages, of which the assistant's in the completion are learnt."""
    conversation = chat.build([*prompt, *completion], row)
    if train_on == "all":
        return conversation
    given = [False] * len(prompt) + [message["role"] == "assistant" for message in conversation.messages[len(prompt) :]]
    flags = [flag if own is None else own for own, flag in zip(conversation.overrides[-len(given) :], given, strict=True)]
    leading = [False] * (len(conversation.messages) - len(given))
    return Conversation(conversation.messages, [*leading, *flags], conversation.tools)


PROMPT_COMPLETION = Format(
    "prompt_completion",
    SAMPLE,
    "prompt and completion",
    ("completion", "all"),
    lambda found, names: has(found, names.prompt, ("prompt",)) and has(found, names.completion, ("completion",)),
    _open,
)

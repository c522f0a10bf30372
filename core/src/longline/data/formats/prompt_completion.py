"""A prompt and what follows it, as text or as messages; where one is messages, text is a message too."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.messages import ChatReader, present, text_field
from longline.data.formats.texts import behind, one_of
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Conversation, RowError, Sample

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, TrainOn
    from longline.data.values import Row


_EVALUATION = {"input", "ideal"}


def _open(opened: Opened) -> Reader:
    chat, names, train_on = ChatReader.of(opened), opened.names, opened.train_on
    first, second = _columns(names, opened.found)

    def sample(row: Row) -> Sample:
        prompt, given = row.get(first), row.get(second)
        completion = one_of(given, opened.notes)
        if completion is not given:
            row = ChainMap({second: completion}, cast("dict[str, Any]", row))
        if isinstance(prompt, (list, Mapping)) or isinstance(completion, (list, Mapping)):
            asked, answer = (_messages(row, key, role, names) for key, role in ((first, "user"), (second, "assistant")))
            return Sample((_conversation(row, asked, answer, chat, train_on),))
        chat.beside_text(row)
        return Sample((behind(text_field(row, first, empty=True), text_field(row, second), train_on),))

    return Reader(sample)


def _columns(names: ColumnsSection, found: Collection[str]) -> tuple[str, str]:
    """The columns of prompt and completion; `input` and `ideal` as evaluations have them."""
    evaluation = set(found) >= _EVALUATION and not {"prompt", "completion"} & set(found)
    first, second = ("input", "ideal") if evaluation else ("prompt", "completion")
    return names.prompt or first, names.completion or second


def _fits(found: Collection[str], names: ColumnsSection) -> bool:
    return all(name in found for name in _columns(names, found))


def _messages(row: Row, key: str, role: str, names: ColumnsSection) -> list[Any]:
    """The messages in a column; text is one of this role."""
    value = present(row, key)
    if not value and isinstance(value, list):
        raise RowError(f"{key!r}: there are no messages")
    if isinstance(value, (list, Mapping)):
        return value if isinstance(value, list) else [value]
    return [{names.role or "role": role, names.content or "content": text_field(row, key)}]


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
    "prompt and completion, or input and ideal",
    ("completion", "all"),
    _fits,
    _open,
)

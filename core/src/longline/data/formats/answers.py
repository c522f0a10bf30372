"""Reads prompts and answers: a pair of answers, one answer with a label, or a prompt alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longline.data.formats.messages import ChatReader, present, text_field
from longline.data.formats.texts import behind, one_of
from longline.data.kinds.prompt import prompt_row
from longline.data.values import Conversation, Piece, Row, RowError, Sample, alike
from longline.errors import DataError

if TYPE_CHECKING:
    from longline.data.formats.base import Opened
    from longline.data.formats.messages import Override
    from longline.data.formats.source_columns import SourceColumns
    from longline.data.notes import Notes

Messages = list[dict[str, Any]]

_ANSWER_MARK, _QUESTION_MARK = "\n\nAssistant:", "\n\nHuman:"
_SPACELESS = 0x2E80
"""From this code point on scripts are written without spaces, so any place between two characters is a border."""


class AnswerReader:
    """Reads the rows of one source whose columns are known. Every method raises RowError for a row that is broken."""

    def __init__(self, names: SourceColumns, chat: ChatReader, notes: Notes, has_template: bool = True) -> None:
        self._names = names
        self._notes = notes
        self._chat = chat
        self._has_template = has_template

    @classmethod
    def of(cls, opened: Opened, columns: SourceColumns) -> AnswerReader:
        """The reader of a source. Raises DataError where its columns need a chat template and there is none."""
        if columns.chat and not opened.has_template:
            raise DataError(
                f"{opened.path}: a question or a system prompt needs a chat template, and the tokenizer has none",
                hint="set model.tokenizer.chat_template, or take the text as it is with `columns: {prompt: ...}`",
            )
        names = opened.names.model_copy(update={"system": columns.system})
        chat = ChatReader(opened, names, needs_answer=False)
        return cls(columns, chat, opened.notes, opened.has_template)

    def note(self, plain: int, chats: int) -> str:
        """How many prompts went through the chat template."""
        if chats:
            return "through the chat template" + (f", but {plain} as plain text" if plain else "")
        if not plain:
            return ""
        prompt = self._names.prompt
        way = f": `columns: {{question: {prompt}}}` would use it" if prompt else ""
        return "as plain text" + (f", without the chat template{way}" if self._has_template else "")

    def pair(self, row: Row) -> Sample:
        """A row with a chosen and a rejected answer."""
        names = self._names
        chosen, rejected = (self._answer(row, key) for key in (names.chosen, names.rejected))
        if isinstance(chosen, str) != isinstance(rejected, str):
            raise RowError(f"{names.chosen!r} and {names.rejected!r} must both be text or both be messages")
        if chosen == rejected:
            raise RowError(f"{names.chosen!r} and {names.rejected!r} are the same")
        return Sample(tuple(self._samples(row, {names.chosen: chosen, names.rejected: rejected})))

    def labelled(self, row: Row) -> Sample:
        """A row with one answer and a label."""
        names = self._names
        label = {"label": _label(present(row, names.label), names.label)}
        if names.completion is None:
            key = str(names.prompt)
            prompt, answer = _last_answer(self._messages(row, key), key)
            return Sample((self._conversation(row, prompt, answer, key),), label)
        return Sample(tuple(self._samples(row, {names.completion: self._answer(row, names.completion)})), label)

    def asked(self, row: Row) -> Sample:
        """A row with a prompt."""
        key = str(self._names.prompt)
        prompt = self._prompt(row, key)
        if isinstance(prompt, str):
            self._refuse_beside_text(row)
            return Sample((Piece(prompt, []),), prompt_row(row, prompt, chat=False))
        messages = self._chat.with_system(row, prompt)
        if messages[-1]["role"] == "assistant":
            raise RowError(f"{key!r} ends with an answer, so there is nothing left to ask")
        return Sample((Conversation(messages, [None] * len(messages)),), prompt_row(row, messages, chat=True))

    # --- prompt and answers -----------------------------------------------------------------------

    def _answer(self, row: Row, key: str) -> str | Messages:
        """An answer as text, or as messages (a mapping is one message)."""
        value = one_of(present(row, key), self._notes)
        return self._messages(row, key) if isinstance(value, (list, Mapping)) else text_field({key: value}, key)

    def _messages(self, row: Row, key: str) -> Messages:
        """The messages in a column."""
        value = present(row, key)
        try:
            messages, overrides = self._chat.messages([value] if isinstance(value, Mapping) else value)
        except RowError as error:
            raise RowError(f"{key!r}: {error}") from None
        if any(override is not None for override in overrides):
            raise RowError(f"{key!r}: a message says itself whether it is learnt, but here that is the answer and nothing else")
        return messages

    def _prompt(self, row: Row, key: str) -> str | Messages:
        """The prompt: messages, or text that is taken as it is."""
        if isinstance(present(row, key), (list, Mapping)):
            return self._messages(row, key)
        text = text_field(row, key)
        further = self._names.further
        if further and row.get(further) is not None and text_field(row, further, empty=True).strip():
            text = f"{text}\n\n{row[further]}"
        return [{"role": "user", "content": text}] if self._names.chat else text

    def _samples(self, row: Row, answers: Mapping[str, str | Messages]) -> list[Conversation | Piece]:
        """Each answer behind the prompt that they share; `answers` by the names of their columns."""
        texts = {key: answer for key, answer in answers.items() if isinstance(answer, str)}
        if self._names.prompt is None and texts:
            return self._split_texts(row, texts)
        prompt = None if self._names.prompt is None else self._prompt(row, self._names.prompt)
        if texts and isinstance(prompt, str):
            self._refuse_beside_text(row)
            self._chat.beside_text(row)
            return [behind(prompt, answer) for answer in texts.values()]
        messages = {key: _as_messages(answer) for key, answer in answers.items()}
        shared, messages = self._shared(prompt, messages)
        return [self._conversation(row, shared, answer, key) for key, answer in messages.items()]

    def _shared(self, prompt: str | Messages | None, answers: dict[str, Messages]) -> tuple[Messages, dict[str, Messages]]:
        """The messages of the prompt, and the answers without them where they are whole conversations."""
        whole = [key for key, messages in answers.items() if messages[0]["role"] in ("system", "user")]
        if prompt is not None and not whole:
            return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, answers
        if len(answers) == 1:
            [(key, messages)] = answers.items()
            begun, answer = _last_answer(messages, key)
            common, rest = begun, {key: answer}
        else:
            common, rest = _split_messages(answers)
        if prompt is not None and not self._names.loose:
            _refuse_other(prompt, common, str(self._names.prompt), " and ".join(map(repr, answers)))
        return common, rest

    def _refuse_beside_text(self, row: Row) -> None:
        """What only a chat template could write, beside text that does not go through it."""
        if self._chat.system(row):
            raise RowError("a system prompt needs the chat template, and this prompt is plain text")

    def _conversation(self, row: Row, prompt: Messages, answer: Messages, key: str) -> Conversation:
        """Prompt and answer, of which the assistant's messages in the answer are learnt."""
        if answer[0]["role"] != "assistant":
            raise RowError(f"{key!r} has a message of the {answer[0]['role']} where the assistant's answer should begin")
        prompt = self._chat.with_system(row, prompt)
        learnt: list[Override] = [False] * len(prompt)
        learnt += [message["role"] == "assistant" for message in answer]
        return Conversation([*prompt, *answer], learnt, self._chat.tools(row))

    def _split_texts(self, row: Row, answers: dict[str, str]) -> list[Conversation | Piece]:
        """Texts that hold the prompt themselves: what they begin with alike."""
        if len(answers) == 1:
            raise RowError(f"there is no prompt, and {next(iter(answers))!r} is text (found: {', '.join(map(str, row))})")
        self._refuse_beside_text(row)
        first, second = answers.values()
        prompt = common_prompt(first, second)
        if not prompt.strip():
            raise RowError(f"{' and '.join(map(repr, answers))} have no beginning in common that could be the prompt")
        for key, answer in answers.items():
            if not answer[len(prompt) :].strip():
                raise RowError(f"{key!r} has no answer behind what both begin with")
        return [behind(prompt, answer[len(prompt) :]) for answer in answers.values()]


def common_prompt(first: str, second: str) -> str:
    """What two texts begin with alike, cut back to where an answer may begin.

    That is behind the last "Assistant:" of a dialogue in the manner of HH-RLHF, else at the start of a word, with the space
    before it left to the answer.
    """
    common = first[: alike(first, second)]
    mark = common.rfind(_ANSWER_MARK)
    if mark >= 0 and _QUESTION_MARK not in common[mark:]:
        return common[: mark + len(_ANSWER_MARK)]
    end = len(common)
    while end > 0 and any(_inside_word(text, end) for text in (first, second)):
        end -= 1
    while end > 0 and common[end - 1] == " ":
        end -= 1
    return common[:end]


def _inside_word(text: str, position: int) -> bool:
    """Whether a word goes on at `position`."""
    around = text[position - 1 : position + 1]
    return len(around) == 2 and all(re.match(r"\w|'", letter) and ord(letter) < _SPACELESS for letter in around)


def _as_messages(answer: str | Messages) -> Messages:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer


def _last_answer(messages: Messages, key: str) -> tuple[Messages, Messages]:
    """A conversation cut behind its last user message."""
    asked = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if asked < 0:
        raise RowError(f"{key!r}: no message is by the user")
    if asked + 1 == len(messages):
        raise RowError(f"{key!r}: no message is by the assistant behind the last one of the user")
    return messages[: asked + 1], messages[asked + 1 :]


def _split_messages(answers: dict[str, Messages]) -> tuple[Messages, dict[str, Messages]]:
    """The messages that two conversations begin with alike, and what comes behind them."""
    first, second = answers.values()
    same = alike(first, second)
    if not same:
        raise RowError(f"{' and '.join(map(repr, answers))} begin with different messages, so they share no prompt")
    for key, messages in answers.items():
        if same == len(messages):
            raise RowError(f"{key!r} has no answer behind the messages that both begin with")
    return first[:same], {key: messages[same:] for key, messages in answers.items()}


def _refuse_other(prompt: str | Messages, common: Messages, key: str, answers: str) -> None:
    """A prompt beside whole conversations must be what these begin with."""
    if isinstance(prompt, str) or len(prompt) == 1:
        asked = prompt if isinstance(prompt, str) else prompt[0].get("content", "")
        said = [message["content"].strip() for message in common if message["role"] == "user" and "content" in message]
        agrees = str(asked).strip() in said
    else:
        agrees = common[-len(prompt) :] == prompt
    if not agrees:
        raise RowError(f"{answers} are whole conversations, and {key!r} is not what they begin with")


def _label(value: Any, key: str) -> bool:
    """True or false, as JSON, as a number, or as the text that CSV has for them."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "1", "0"):
        return value.strip().lower() in ("true", "1")
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise RowError(f"the field {key!r} must be true or false, 1 or 0, and is {str(value)[:40]!r}")

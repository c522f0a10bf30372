"""Special tokens in the text of rows: as it stands, a tokenizer takes `<|im_end|>` in a question for the end of the turn."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from longline.data.values import Conversation, Piece, RowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longline.config.sections import SpecialTokens
    from longline.data.notes import Notes
    from longline.data.values import Message, Part, Sample, Written

# As the marks of the template: no text of a data set is taken for one.
_BEGIN, _END = f"\ue0f2{secrets.token_hex(6)}:", "\ue0f3"
_HIDDEN = re.compile(f"{_BEGIN}([0-9]+){_END}")
_THOUGHTS = ("<think>", "</think>")
"""Templates look for them in an answer, so that they are no text there even where a tokenizer calls them special."""
_TEXT = "a text holds special tokens"


@dataclass(slots=True)
class Specials:
    """What becomes of them. With `escape` they are hidden from the chat template, and tokenised as any other text.

    Plain text may begin or end with some, and where only that is the case it is not told: they are put there on purpose.
    """

    rule: SpecialTokens
    notes: Notes
    words: Sequence[str]
    pattern: re.Pattern[str] | None = field(init=False)

    def __post_init__(self) -> None:
        words = sorted({*self.words} - {*_THOUGHTS}, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def hide(self, sample: Sample) -> Sample:
        """Count the special tokens of a row, or hide those of its messages. Raises RowError where they are refused."""
        if self.pattern is None:
            return sample
        found: list[str] = []
        parts = tuple(self._part(part, self.pattern, found) for part in sample.parts)
        if not found:
            return sample
        if self.rule == "refuse":
            text = f"the text holds the special token {found[0]}"
            raise RowError(text, "data.special_tokens: escape takes it for text, keep for what it commands")
        if self.rule == "escape":
            self.notes.add(f"{_TEXT}, which are taken for text", found[0], warns=False)
            return replace(sample, parts=parts)
        # What is no chat may be a chat that was written out; a message has no business with what ends it.
        chat = any(isinstance(part, Conversation) for part in sample.parts)
        remedy = "; `special_tokens: escape` takes them for text"
        self.notes.add(f"{_TEXT}, which the model reads as commands{remedy}", found[0], warns=chat)
        return sample

    def _part(self, part: Part, pattern: re.Pattern[str], found: list[str]) -> Part:
        if isinstance(part, Conversation):

            def hidden(match: re.Match[str]) -> str:
                found.append(match[0])
                return f"{_BEGIN}{self.words.index(match[0])}{_END}"

            def changed(text: str) -> str:
                return pattern.sub(hidden, text)

            messages = [_message(message, changed) for message in part.messages]
            return replace(part, messages=messages, tools=_deeply(part.tools, changed))
        if isinstance(part, Piece):
            found += [part.text[start:end] for start, end in _within(part.text, pattern)]
        return part

    def show(self, piece: Written) -> Written:
        """Put the hidden ones back into a text, and say where they are text."""
        if self.rule != "escape" or not isinstance(piece, Piece) or self.pattern is None:
            return piece
        if not piece.chat:
            return replace(piece, plain=_within(piece.text, self.pattern))
        moved, plain, texts, at, longer = [], [], [], 0, 0
        for match in _HIDDEN.finditer(piece.text):
            word = self.words[int(match[1])]
            texts += [piece.text[at : match.start()], word]
            plain.append((match.start() + longer, match.start() + longer + len(word)))
            at, longer = match.end(), longer + len(word) - len(match[0])
            moved.append((at, longer))
        text = "".join([*texts, piece.text[at:]])
        if _BEGIN[1:] in text:
            raise RowError("the chat template changes special tokens that the text holds")

        def place(position: int) -> int:
            return position + next((by for end, by in reversed(moved) if end <= position), 0)

        spans = [(place(start), place(end)) for start, end in piece.spans]
        return Piece(text, spans, [place(end) for end in piece.terminators], chat=True, plain=plain)


def _message(message: Message, changed: Callable[[str], str]) -> Message:
    return {key: value if key == "role" else _deeply(value, changed) for key, value in message.items()}


def _deeply(value: Any, changed: Callable[[str], str]) -> Any:
    """A value with all its texts changed, but for the names of mappings."""
    if isinstance(value, str):
        return changed(value)
    if isinstance(value, list):
        return [_deeply(item, changed) for item in value]
    if isinstance(value, dict):
        return {key: _deeply(item, changed) for key, item in value.items()}
    return value


def _within(text: str, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Where special tokens are between the first and the last of a text that are none."""
    places = [match.span() for match in pattern.finditer(text)]
    begin, end = 0, len(text)
    for start, stop in places:
        begin = stop if start == begin else begin
    for start, stop in reversed(places):
        end = start if stop == end else end
    return [(start, stop) for start, stop in places if begin <= start and stop <= end]

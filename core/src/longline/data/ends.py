"""Which token ends an answer, as a chat template shows it.

Most templates close an answer with a token of its own. Others (GLM) write none: what ends the answer is the first token of the next
turn, another one before a user than before a tool's result. And a token at the end of an answer may close a part of it alone, as
`</tool_call>` does. So templates are asked: how a plain answer ends in front of a next turn and at the end, and how often a
token stands there when two tools are called at once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longline.data.template import TemplateError
from longline.data.values import Conversation
from longline.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from transformers import PreTrainedTokenizerBase

    from longline.data.template import Rendering
    from longline.data.values import Message, Span

PROBE = "longline probe"
_NEAR = 64
_ASKED = {"role": "user", "content": PROBE}
_PLAIN = {"role": "assistant", "content": PROBE}
_NEXT = ("user", "tool")


def named_ends(tokenizer: PreTrainedTokenizerBase, named: str | list[str]) -> list[str]:
    """The tokens that `data.end_of_turn` names. Raises DataError for what is no token of its own, or without a chat template."""
    tokens = [named] if isinstance(named, str) else named
    known = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    for token in tokens:
        if token not in known:
            hint = did_you_mean(token, known, f"there are: {', '.join(sorted(known)[:20])}")
            raise DataError(
                f"data.end_of_turn: {token!r} is no token of this tokenizer that is special or was added", hint=hint
            )
    if tokens and not tokenizer.chat_template:
        raise DataError("data.end_of_turn: the tokenizer has no chat template, so there are no turns", hint="remove it")
    return tokens


class SpecialTokens:
    """The tokens that a template may write around messages, found in text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        added = {str(token.content): token.special for token in tokenizer.added_tokens_decoder.values()}
        # Some end-of-turn tokens are added without being called special; that they stand in the template tells them.
        tokens = {token for token, special in added.items() if special or token in template} | set(tokenizer.all_special_tokens)
        self.known = {token for token in tokens if token.strip()}
        # The longest first: a regular expression takes the first alternative that fits.
        names = "|".join(sorted(map(re.escape, self.known), key=len, reverse=True)) or r"(?!)"
        self._any, self._last = re.compile(names), re.compile(rf"(?:{names})\Z")

    def ending(self, text: str) -> str:
        """The token that a text ends with; empty where it ends otherwise."""
        # `\Z` needs the text to end there; the longest token that matches is found from the left.
        found = self._last.search(text[-_NEAR:])
        return found.group() if found else ""

    def at(self, text: str, position: int) -> str:
        """The token that stands there, or nothing."""
        found = self._any.match(text, position)
        return found.group() if found else ""

    def without(self, text: str) -> str:
        """The text without them."""
        return self._any.sub("", text)


class Ends:
    """Finds where answers end, for one template; `render` renders a conversation or raises TemplateError.

    `named` are the tokens that the config says end an answer; then the template is not asked.
    """

    def __init__(self, tokens: SpecialTokens, render: Callable[[Conversation], Rendering], named: Sequence[str] = ()) -> None:
        self.tokens = tokens
        self._render = render
        self._named = tuple(named)
        self._closing: dict[bool, set[str] | None] = {}
        self._whole: dict[tuple[str, bool], bool] = {}
        self._missing: dict[tuple[bool, bool], str] = {}
        self._known: set[str] = set()
        self.inside: set[str] = set()
        """Tokens that end some answers and stand in the middle of others, as the template writes them."""

    def find(
        self, rendering: Rendering, messages: Sequence[Message], number: int, region: Span, tools: Any
    ) -> tuple[int, int | None]:
        """Where the learnt part of a message's region ends, and where its end-of-turn token starts."""
        text, stop = rendering.text, stripped_end(rendering.text, region)
        tail = self.tokens.ending(text[region[0] : stop])
        if tail and (messages[number]["role"] != "assistant" or self._ends_turn(tail, messages[number], tools)):
            return stop, stop - len(tail)
        following = self.tokens.at(text, region[1])
        if following and self._may_follow(following, messages, number):
            return region[1] + len(following), region[1]
        return stop, None

    def _may_follow(self, token: str, messages: Sequence[Message], number: int) -> bool:
        """Whether the model has to write a token that stands behind a region.

        Where another answer or a system message comes next, it is no turn's end that a model could see.
        """
        if self._named:
            return token in self._named
        return number + 1 == len(messages) or messages[number + 1]["role"] in _NEXT or messages[number]["role"] != "assistant"

    def _ends_turn(self, token: str, message: Message, tools: Any) -> bool:
        """Whether a token at the end of an answer ends it, and not only a part of it."""
        closing = self._named or self.closing(tools)
        if closing is None or token in closing:
            return True
        # Where plain answers end with the token of the next turn, so do all others.
        if self._named or not closing or not message.get("tool_calls"):
            return False
        key = (token, bool(tools))
        if key not in self._whole:
            self._whole[key] = self._stands_once(token, tools)
        return self._whole[key]

    def closing(self, tools: Any = None) -> set[str] | None:
        """The tokens with which the template closes plain answers, in front of a next turn and at the end.

        None: it refuses to write one, so nothing is known.
        """
        if bool(tools) not in self._closing:
            found = [self._rendered([_ASKED, _PLAIN, *after], tools, 1) for after in ([_ASKED, _PLAIN], [])]
            seen = [within for within in found if within is not None]
            self._closing[bool(tools)] = {token for within in seen if (token := self.tokens.ending(within))} if seen else None
        return self._closing[bool(tools)]

    def _stands_once(self, token: str, tools: Any) -> bool:
        """Whether a token stands but once in an answer that calls two tools: what closes a call stands there twice."""
        calls = [
            {"id": f"{PROBE[:8]}{place}", "type": "function", "function": {"name": f"probe{place}", "arguments": {"a": place}}}
            for place in (1, 2)
        ]
        within = self._rendered([_ASKED, {"role": "assistant", "content": "", "tool_calls": calls}], tools, 1)
        return within is None or within.count(token) < len(calls)

    def _rendered(self, messages: list[Message], tools: Any, number: int) -> str | None:
        """What message `number` writes, without the whitespace at its end; None when the template refuses or it can't be told."""
        try:
            rendering = self._render(Conversation(messages, [None] * len(messages), tools))
        except TemplateError:
            return None
        regions = [rendering.text[start:end].rstrip() for start, end in rendering.regions.get(number, ())]
        written = [within for within in regions if within]
        return written[0] if len(written) == 1 else None

    def remember(self, text: str, spans: Sequence[Span], ends: Sequence[int], message: Message) -> None:
        """Note the tokens that end an answer, and whether one of those known stands elsewhere in its learnt spans."""
        for end in ends:
            self._known.add(self.tokens.at(text, end))
        for token in self._known:
            for start, stop in spans:
                place = text.find(token, start, stop)
                # What the author of a row wrote says nothing of the template.
                if 0 <= place < stop - len(token) and token not in str(message):
                    self.inside.add(token)

    def last(self) -> str:
        """The token that ends a plain last answer; empty where that can't be told."""
        asked = Conversation([_ASKED, _PLAIN], [None, None])
        try:
            rendering, _ = self.completed(self._render(asked), asked)
            regions = rendering.regions.get(1, ())
            end = self.find(rendering, asked.messages, 1, regions[-1], None)[1] if regions else None
        except TemplateError:
            return ""
        return "" if end is None else self.tokens.at(rendering.text, end)

    # --- an answer that nothing follows -------------------------------------------------------------------------------------------

    def completed(self, rendering: Rendering, conversation: Conversation) -> tuple[Rendering, str]:
        """The rendering with the end that the template would write behind the last answer if a turn followed, and that token.

        Nothing is put there where the answer has an end, something stands behind it, or no such token is known.
        """
        if rendering.text[-_NEAR:].rstrip().endswith(tuple(self._closing.get(bool(conversation.tools)) or ())):
            return rendering, ""  # as nearly all do
        messages, number = conversation.messages, len(conversation.messages) - 1
        regions = [span for span in rendering.regions.get(number, ()) if rendering.text[span[0] : span[1]].strip()]
        if messages[-1]["role"] != "assistant" or len(regions) != 1 or rendering.text[regions[0][1] :].strip():
            return rendering, ""
        if self.find(rendering, messages, number, regions[0], conversation.tools)[1] is not None:
            return rendering, ""
        added = self._missing_end(conversation)
        if not added:
            return rendering, ""
        start, stop = regions[0][0], stripped_end(rendering.text, regions[0])
        token = self.tokens.ending(added)
        own = [span if span[0] != start else (start, stop + len(added) - len(token)) for span in rendering.regions[number]]
        generated = [(first, min(last, stop)) for first, last in rendering.generated]
        text = rendering.text[:stop] + added
        return replace(rendering, text=text, regions={**rendering.regions, number: own}, generated=generated), token

    def _missing_end(self, conversation: Conversation) -> str:
        """What stands between an answer and the end of the token that ends it, when a turn follows."""
        if self._named:
            return self._named[0]
        calls = bool(conversation.messages[-1].get("tool_calls"))
        key = (calls, bool(conversation.tools))
        if key not in self._missing:
            self._missing[key] = next(
                (found for after in _turns(conversation.messages[-1]) if (found := self._behind(conversation, after))), ""
            )
        return self._missing[key]

    def _behind(self, conversation: Conversation, after: Message) -> str:
        """What the template writes behind the last answer, up to the end of its last token, when `after` follows."""
        messages, number = [*conversation.messages, after], len(conversation.messages) - 1
        try:
            rendering = self._render(Conversation(messages, [None] * len(messages), conversation.tools))
        except TemplateError:
            return ""
        regions = [span for span in rendering.regions.get(number, ()) if rendering.text[span[0] : span[1]].strip()]
        if len(regions) != 1:
            return ""
        stop, end = self.find(rendering, messages, number, regions[0], conversation.tools)
        if end is None:
            return ""
        # An end inside of the region stands behind what is the same in both.
        begin = end if end < regions[0][1] else stripped_end(rendering.text, regions[0])
        return rendering.text[begin:stop]


def _turns(message: Message) -> Iterable[Message]:
    """What may follow an answer: of one that calls a tool first its result."""
    calls = message.get("tool_calls") or ()
    if calls:
        function = calls[0].get("function") or calls[0]
        yield {"role": "tool", "tool_call_id": calls[0].get("id"), "name": function.get("name"), "content": PROBE}
    yield _ASKED


def stripped_end(text: str, span: Span) -> int:
    """The end of a span without the whitespace at its end."""
    return span[0] + len(text[span[0] : span[1]].rstrip())

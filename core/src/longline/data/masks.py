"""Which characters of a rendered conversation are learnt: what the model itself has to write, and the token that ends its turn.

A span starts where generation would: after the generation prompt that the template writes in front of that very answer. It
ends with the end-of-turn token; whitespace behind that is not learnt. A token belongs to the side on which it starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longline.data.dropped import END_OF_THOUGHT, Dropped, said_by
from longline.data.ends import PROBE, Ends, SpecialTokens, stripped_end
from longline.data.notes import Notes
from longline.data.template import REASONING, ChatTemplate, Rendering, TemplateError
from longline.data.values import Conversation, Piece, alike, short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from longline.config.sections import TrainOn
    from longline.data.values import Message, Span

_NO_THOUGHT = re.compile(r"\s*(<think>)?\s*(</think>)?\s*")


def learnt_messages(conversation: Conversation, train_on: TrainOn) -> list[bool]:
    """Whether each message is learnt."""
    roles = [message["role"] for message in conversation.messages]
    answers = [number for number, role in enumerate(roles) if role == "assistant"]
    if train_on == "last_assistant":
        answers = answers[-1:]
    elif train_on == "completion":
        asked = max((number for number, role in enumerate(roles) if role == "user"), default=-1)
        answers = [number for number in answers if number > asked]
    chosen = set(range(len(roles)) if train_on == "all" else answers)
    return [number in chosen if own is None else own for number, own in enumerate(conversation.overrides)]


class ChatMasker:
    """Finds the learnt spans of conversations for one tokenizer; remembers the headers that it worked out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_of_turn: Sequence[str] = (), notes: Notes | None = None) -> None:
        self.template = ChatTemplate(tokenizer)
        self.tokens = SpecialTokens(tokenizer, self.template.source())
        self.ends = Ends(self.tokens, self._probed, end_of_turn)
        self.notes = Notes() if notes is None else notes
        self._dropped = Dropped(self._probed, self.notes)
        self._headers: dict[Any, str] = {}

    def piece(self, conversation: Conversation, train_on: TrainOn) -> Piece:
        """Render a conversation and find what is learnt. Raises TemplateError when that can't be said for certain."""
        conversation, rendering = self._render(conversation)
        learnt = learnt_messages(conversation, train_on)
        self._dropped.look(conversation, rendering, learnt, train_on)
        rendering, added = self.ends.completed(rendering, conversation)
        if added:
            self.notes.add(f"{added!r} was put behind the last answer, which the chat template leaves open", warns=False)
        if train_on == "all":
            return self._all_but(rendering, conversation, learnt)
        answering = self._answering(rendering, conversation.messages)
        spans: list[Span] = []
        ends: list[int] = []
        for number, message in enumerate(conversation.messages):
            self._refuse_unwritten(rendering, conversation.messages, number)
            if not learnt[number]:
                continue
            find = self._around_results if number in answering else self._message
            found, closed = find(rendering, conversation, number)
            if message["role"] == "assistant":
                ends += closed
                self.ends.remember(rendering.text, found, closed, message)
            spans.extend(span for span in found if span[0] < span[1])
        return Piece(rendering.text, spans, ends, chat=True)

    def asked(self, conversation: Conversation) -> Piece:
        """A prompt up to where the answer begins; nothing of it is learnt. Raises TemplateError."""
        rendering = self.template.render(conversation.messages, conversation.tools, add_generation_prompt=True)
        if any(len(message) > 2 for message in conversation.messages):
            plain = self._probed(conversation)
            self._dropped.look(conversation, plain, [False] * len(conversation.messages), "completion")
        return Piece(rendering.text, [], chat=True)

    def _render(self, conversation: Conversation) -> tuple[Conversation, Rendering]:
        """Render; a template that refuses a tool call gets its arguments as JSON text (DeepSeek), or an empty content."""
        return _first_form(conversation, self.template.checked)

    def _probed(self, conversation: Conversation) -> Rendering:
        """The same for a conversation that no row has, which need not be compared."""
        return _first_form(conversation, self.template.render)[1]

    def _all_but(self, rendering: Rendering, conversation: Conversation, learnt: Sequence[bool]) -> Piece:
        """The whole text is learnt but for single messages; the terminators are still looked for, to be counted."""
        spans, ends, start = [], [], 0
        for number, message in enumerate(conversation.messages):
            if not learnt[number]:
                region = self._region(rendering, message, number)
                spans.append((start, region[0]))
                start = region[1]
            elif message["role"] == "assistant" and number in rendering.regions:
                region = rendering.regions[number][-1]
                stop, end = self._end(rendering, conversation, number, region)
                closed = _listed(end)
                ends += closed
                self.ends.remember(rendering.text, [(region[0], stop)], closed, message)
        spans.append((start, len(rendering.text)))
        return Piece(rendering.text, [span for span in spans if span[0] < span[1]], ends, chat=True)

    def _message(self, rendering: Rendering, conversation: Conversation, number: int) -> tuple[list[Span], list[int]]:
        """The learnt spans of one message, and where its end-of-turn tokens start."""
        message = conversation.messages[number]
        region = self._region(rendering, message, number)
        stop, terminator = self._end(rendering, conversation, number, region)
        marked = [span for span in rendering.generated if region[0] <= span[0] and span[1] <= region[1]]
        if message["role"] != "assistant":
            start = self._content_start(rendering.text, region, message, number)
            return [(start, stop)], _listed(terminator)
        if not marked:
            return [(region[0] + len(self._header(rendering, conversation, number, region)), stop)], _listed(terminator)
        if rendering.text[marked[-1][1] : stop if terminator is None else terminator].strip():
            raise TemplateError(f"message {number + 1}: the template's generation block leaves out part of the answer")
        return [*marked[:-1], (marked[-1][0], max(stop, stripped_end(rendering.text, marked[-1])))], _listed(terminator)

    def _region(self, rendering: Rendering, message: Message, number: int) -> Span:
        """The one stretch of text that a message wrote, which must hold what it says and calls."""
        regions = [span for span in rendering.regions.get(number, ()) if rendering.text[span[0] : span[1]].strip()]
        if len(regions) != 1:
            raise TemplateError(f"message {number + 1} ({message['role']}): the chat template writes it {len(regions)} times")
        within = rendering.text[regions[0][0] : regions[0][1]]
        if (said := said_by(message)) and said not in within:
            raise TemplateError(f"message {number + 1} ({message['role']}): the chat template does not write its content")
        written = self.tokens.without(within)
        for call in message.get("tool_calls") or ():
            name = (call.get("function") or call).get("name")
            if str(name) not in written:
                raise TemplateError(f"message {number + 1}: the chat template leaves out its call of {name!r}")
        return regions[0]

    def _end(self, rendering: Rendering, conversation: Conversation, number: int, region: Span) -> tuple[int, int | None]:
        return self.ends.find(rendering, conversation.messages, number, region, conversation.tools)

    @staticmethod
    def _answering(rendering: Rendering, messages: Sequence[Message]) -> set[int]:
        """The answers into which the template writes tool results (Gemma 4); a generation block says by itself what is whose."""
        if rendering.generated or len(messages) == len(rendering.regions):
            return set()
        inside = [n for n, message in enumerate(messages) if message["role"] == "tool" and n not in rendering.regions]
        before = [max((other for other in range(n) if messages[other]["role"] == "assistant"), default=-1) for n in inside]
        return {number for number in before if number in rendering.regions}

    def _refuse_unwritten(self, rendering: Rendering, messages: Sequence[Message], number: int) -> None:
        """A message without a stretch of its own must stand elsewhere, but not in an answer, unless it is a tool result."""
        message, said = messages[number], said_by(messages[number])
        if number in rendering.regions or not said:
            return
        if said not in rendering.text and message["role"] == "system" and "system" in self.notes.allowed:
            self.notes.dropped("system", "the chat template leaves out the system prompt", short(said))
            return
        if said not in rendering.text:
            raise TemplateError(f"message {number + 1} ({message['role']}): the chat template leaves it out")
        before = max((other for other in range(number) if messages[other]["role"] == "assistant"), default=None)
        if rendering.generated or before is None or message["role"] == "tool" or said in said_by(messages[before]):
            return
        if any(said in rendering.text[start:end] for start, end in rendering.regions.get(before, ())):
            raise TemplateError(
                f"message {number + 1} ({message['role']}): the chat template writes it into the answer before it; "
                "use a template with {% generation %} marks"
            )

    def _around_results(self, rendering: Rendering, conversation: Conversation, number: int) -> tuple[list[Span], list[int]]:
        """What is learnt of an answer that holds tool results: the call with its end, and the content if it stands behind them.

        Where the results begin is seen from the answer alone, where they end from the same answer with other results.
        """
        region = self._region(rendering, conversation.messages[number], number)
        within = rendering.text[region[0] : stripped_end(rendering.text, region)]
        alone, end = self._alone(conversation, number)
        if within == alone:
            return self._message(rendering, conversation, number)
        token = "" if end is None else self.tokens.at(alone, end)
        called = alike(within, alone)
        if called < len(alone):
            called = len(self._whole_tokens(within[:called]))
            called += len(token) if within.startswith(token, called) else 0
        if not token or not within[:called].endswith(token):
            raise TemplateError(
                f"message {number + 1}: the chat template writes tool results into it, and it can't be told where they begin; "
                "use a template with {% generation %} marks"
            )
        start = region[0] + len(self._header(rendering, conversation, number, region))
        call, closed = (start, region[0] + called), region[0] + called - len(token)
        said = said_by(conversation.messages[number])
        if not said or said in within[:called]:
            return [call], [closed]
        stop, ending = self._end(rendering, conversation, number, region)
        place = self._behind_results(conversation, number, within, said)
        return [call, (region[0] + place, stop)], [closed, *_listed(ending)]

    def _alone(self, conversation: Conversation, number: int) -> tuple[str, int | None]:
        """What an answer writes when nothing comes behind it, and where its end-of-turn token starts in that."""
        form = Conversation(conversation.messages[: number + 1], conversation.overrides[: number + 1], conversation.tools)
        try:
            rendering = self._probed(form)
        except TemplateError:
            return "", None  # a template may refuse to end with a call
        region = self._region(rendering, form.messages[number], number)
        end = self._end(rendering, form, number, region)[1]
        text = rendering.text[region[0] : stripped_end(rendering.text, region)]
        return text, None if end is None or end >= region[1] else end - region[0]

    def _behind_results(self, conversation: Conversation, number: int, within: str, said: str) -> int:
        """Where the content starts that an answer has behind its tool results."""
        others = [{**message, "content": PROBE} if message["role"] == "tool" else message for message in conversation.messages]
        rendering = self._probed(Conversation(others, conversation.overrides, conversation.tools))
        region = self._region(rendering, others[number], number)
        other = rendering.text[region[0] : stripped_end(rendering.text, region)]
        place = within.rfind(said)
        if place < len(within) - alike(within[::-1], other[::-1]):
            raise TemplateError(f"message {number + 1}: can't tell its content from the tool results in it")
        return place

    @staticmethod
    def _content_start(text: str, region: Span, message: Message, number: int) -> int:
        """Where the content of a message that is no answer starts."""
        said = said_by(message)
        within = text[region[0] : region[1]]
        if not said or within.count(said) != 1:
            raise TemplateError(f"message {number + 1} ({message['role']}): its content can't be found in the rendered text")
        return region[0] + within.index(said)

    # --- the header of an answer ------------------------------------------------------------------

    def _header(self, rendering: Rendering, conversation: Conversation, number: int, region: Span) -> str:
        """What the template writes in front of an answer before the model's turn begins; often the generation prompt."""
        within = rendering.text[region[0] : region[1]]
        messages = conversation.messages
        near = tuple(
            (message["role"], bool(message.get("tool_calls"))) for message in messages[max(0, number - 1) : number + 1]
        )
        later = any(message["role"] == "user" for message in messages[number + 1 :])
        message = messages[number]
        thought = END_OF_THOUGHT in str(message.get("content")) or (len(message) > 2 and any(map(message.get, REASONING)))
        situation = (near, number == 0, number + 1 == len(messages), later, thought, bool(conversation.tools))
        header = self._headers.get(situation)
        if header is None or not within.startswith(header):
            # Working it out takes up to four renderings, so a header serves all answers in the same situation that begin with
            # it.
            header = self._find_header(rendering.text, conversation, number, region)
            self._headers[situation] = header
        return header

    def _find_header(self, text: str, conversation: Conversation, number: int, region: Span) -> str:
        """Compare with the prompt that generation would start from; without one, see what comes before the content."""
        within = text[region[0] : region[1]]
        before = conversation.messages[:number]
        prompt = self._rendered(before, conversation.tools, generating=True)
        plain = self._rendered(before, conversation.tools, generating=False)
        asks = prompt is not None and prompt != plain
        if asks and prompt is not None and text.startswith(prompt) and region[0] <= len(prompt) <= region[1]:
            return text[region[0] : len(prompt)]
        generation = prompt[len(plain) :] if asks and prompt and plain is not None and prompt.startswith(plain) else ""
        if generation and within.startswith(generation):
            return generation
        return self._probed_header(within, conversation, number, generation)

    def _probed_header(self, within: str, conversation: Conversation, number: int, generation: str) -> str:
        """What stands before the content when the content is a known word.

        Whitespace alone is the model's to write (Llama 2, Mistral). A generation prompt may go on behind the header with the
        start of a thought that the template has left out here (DeepSeek R1), or have closed at once (Nemotron): then the
        header ends where the two part.
        """
        probed = self._before_probe(conversation, number)
        header = probed or ""
        if generation:
            common = self._whole_tokens(generation[: alike(generation, header)])
            thought, header = header[len(common) :], common
            certain = bool(common) and _NO_THOUGHT.fullmatch(thought) is not None
        else:
            certain = probed is not None
        header = header if header.strip() else ""
        # A wrong mask trains silently on the wrong thing, so a row of which this cannot be said is refused.
        if not certain or not within.startswith(header):
            raise TemplateError(f"message {number + 1}: can't tell where the answer starts in {within[:60]!r}")
        return header

    def _before_probe(self, conversation: Conversation, number: int) -> str | None:
        """The text in front of a known content in place of answer `number`, or else of an answer that ends the conversation."""
        messages = conversation.messages
        inside = [*messages[:number], {**messages[number], "content": PROBE}, *messages[number + 1 :]]
        at_end = [*messages[:number], {"role": "assistant", "content": PROBE}]
        for form in (inside, at_end):
            try:
                rendering = self.template.render(form, conversation.tools)
            except TemplateError:
                continue
            regions = [rendering.text[start:end] for start, end in rendering.regions.get(number, ())]
            if len(regions) == 1 and PROBE in regions[0]:
                return regions[0].partition(PROBE)[0]
        return None

    def _whole_tokens(self, text: str) -> str:
        """`text` cut back to where a special token or whitespace ends."""
        while text and not text[-1].isspace() and not self.tokens.ending(text):
            text = text[:-1]
        return text

    def _rendered(self, messages: Sequence[Message], tools: Any, *, generating: bool) -> str | None:
        """The text of the first messages, or None when the template refuses them alone."""
        try:
            return self.template.render(messages, tools, add_generation_prompt=generating).text
        except TemplateError:
            return None


def _listed(end: int | None) -> list[int]:
    return [] if end is None else [end]


def _first_form(conversation: Conversation, render: Callable[..., Rendering]) -> tuple[Conversation, Rendering]:
    """The first form of a conversation that the template takes."""
    refusal = TemplateError("")
    for form in (conversation, *_other_forms(conversation)):
        try:
            return form, render(form.messages, form.tools)
        except TemplateError as error:
            refusal = refusal if form is not conversation else error
    raise refusal


def _other_forms(conversation: Conversation) -> Iterator[Conversation]:
    """The same conversation with its tool calls written otherwise; nothing without tool calls."""
    if not any(message.get("tool_calls") for message in conversation.messages):
        return
    for text, filled in ((True, False), (False, True), (True, True)):
        messages = []
        for message in conversation.messages:
            form = {"content": "", **message} if filled else dict(message)
            if text and message.get("tool_calls"):
                form["tool_calls"] = [_text_arguments(call) for call in message["tool_calls"]]
            messages.append(form)
        yield Conversation(messages, conversation.overrides, conversation.tools)


def _text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as JSON text."""
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _text_arguments(call["function"])}
    arguments = call.get("arguments")
    return {**call, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)}

"""What of a conversation its chat template leaves out: told once for a source, or refused where it is what should be learnt.

Templates cut thoughts, know no tools, or have never heard of a key, and say nothing. What they write is seen in the text, or by
rendering without it, a few times for each situation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longline.data.template import REASONING, TemplateError
from longline.data.values import Conversation, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longline.config.sections import TrainOn
    from longline.data.notes import Notes
    from longline.data.template import Rendering
    from longline.data.values import Message

THINK, END_OF_THOUGHT = "<think>", "</think>"
_READ = {"role", "content", "tool_calls", *REASONING}
# What ties a tool's result to its call says nothing by itself.
_TIES = {"tool_call_id", "name", "id"}
_TRIED = 8


class Dropped:
    """Looks at conversations of one template; `render` renders a conversation or raises TemplateError."""

    def __init__(self, render: Callable[[Conversation], Rendering], notes: Notes) -> None:
        self._render = render
        self._notes = notes
        self._unread: dict[tuple[str, str], int] = {}
        self._tools: dict[tuple[str, ...], bool] = {}

    def look(self, conversation: Conversation, rendering: Rendering, learnt: Sequence[bool], train_on: TrainOn) -> None:
        """Note what the text lacks. Raises TemplateError for an answer that would be learnt without its reasoning."""
        messages = conversation.messages
        for number, message in enumerate(messages):
            if len(message) == 2 and END_OF_THOUGHT not in message.get("content", ""):
                continue  # as nearly all are
            if keys := message.keys() - _READ:
                self._look_for_keys(conversation, rendering, message, keys)
            if message.get("tool_calls") and not learnt[number]:
                self._look_for_calls(rendering, message, number)
            for thought in thoughts(message) if message["role"] == "assistant" else ():
                self._look_for(thought, conversation, rendering, number, learnt[number], train_on)
        if conversation.tools and not self._writes_tools(conversation, rendering):
            self._notes.dropped("tools", "the chat template leaves out the definitions of tools", short(conversation.tools[0]))

    def _look_for(
        self, thought: str, conversation: Conversation, rendering: Rendering, number: int, learnt: bool, train_on: TrainOn
    ) -> None:
        within = "".join(rendering.text[start:end] for start, end in rendering.regions.get(number, ()))
        if answer := said_by(conversation.messages[number]):
            within = within[: within.rfind(answer)]  # what is thought may be what is said
        if thought in within or json.dumps(thought, ensure_ascii=False)[1:-1] in within:
            return
        if not learnt:
            self._notes.add(
                "the chat template leaves out the reasoning of an answer that is not learnt", short(thought), warns=False
            )
        elif any(message["role"] == "user" for message in conversation.messages[number + 1 :]):
            # As it will be when the model answers the next question, so nothing is wrong with the text.
            way = "; `train_on: last_assistant` learns the last answer alone" if train_on == "assistant" else ""
            text = f"an earlier answer is learnt without its reasoning, which the chat template leaves out there{way}"
            self._notes.dropped("reasoning", text, short(thought))
        elif "reasoning" in self._notes.allowed:
            self._notes.dropped("reasoning", "an answer is learnt without its reasoning", short(thought))
        else:
            raise TemplateError(
                f"message {number + 1}: the chat template leaves out its reasoning ({short(thought)}), so the answer alone would "
                "be learnt; take a template that writes it, or allow it with `data.allow_dropped: [reasoning]`"
            )

    def _look_for_calls(self, rendering: Rendering, message: Message, number: int) -> None:
        """What an answer that is not learnt calls, and says beside it; of one that is learnt the masks refuse to lose it."""
        within = "".join(rendering.text[start:end] for start, end in rendering.regions.get(number, ()))
        names = [str((call.get("function") or call).get("name")) for call in message["tool_calls"]]
        for lost in [text for text in (*names, said_by(message)) if text not in within]:
            self._notes.dropped(
                "tools", "the chat template leaves out part of an answer that calls a tool, and is not learnt", short(lost)
            )

    def _look_for_keys(self, conversation: Conversation, rendering: Rendering, message: Message, keys: set[str]) -> None:
        role = message["role"]
        for key in sorted(keys - _TIES if role == "tool" else keys):
            if message[key] and self._is_unread(conversation, rendering, key, role):
                self._notes.dropped("keys", f"nobody reads the key {key!r} of a message of the {role}", short(message[key]))

    def _is_unread(self, conversation: Conversation, rendering: Rendering, key: str, role: str) -> bool:
        """Whether a key of a role's messages changes nothing; once it did, it is read, and after some tries it is not."""
        tried = self._unread.get((key, role), 0)
        if 0 <= tried < _TRIED:
            without = [
                {k: v for k, v in message.items() if k != key or message["role"] != role} for message in conversation.messages
            ]
            same = self._same(Conversation(without, conversation.overrides, conversation.tools), rendering)
            self._unread[key, role] = tried = tried + 1 if same else -1
        return tried > 0

    def _writes_tools(self, conversation: Conversation, rendering: Rendering) -> bool:
        """Whether the definitions of tools change the text, for each order of roles."""
        roles = tuple(message["role"] for message in conversation.messages[:3])
        if roles not in self._tools:
            self._tools[roles] = not self._same(Conversation(conversation.messages, conversation.overrides), rendering)
        return self._tools[roles]

    def _same(self, conversation: Conversation, rendering: Rendering) -> bool:
        try:
            return self._render(conversation).text == rendering.text
        except TemplateError:
            return False


def said_by(message: Message) -> str:
    """The content of a message as a template may be relied on to write it: trimmed, without a thought before it."""
    return str(message.get("content") or "").rpartition(END_OF_THOUGHT)[2].strip()


def thoughts(message: Message) -> list[str]:
    """What an answer says of how it was found: in a key of its own, or in front of the end of a thought in its content."""
    found = [text for key in REASONING if (text := _text(message.get(key)))]
    content = message.get("content")
    if content and END_OF_THOUGHT in content:
        found.append(content.rpartition(END_OF_THOUGHT)[0].strip().removeprefix(THINK).strip())
    return [text for text in found if text]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(value or "")

"""A row of a chat data set into messages as templates expect them, whatever its fields and roles are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longline.data.formats.calls import calls_of, tools_of
from longline.data.values import Conversation, RowError, short

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, ToolArguments
    from longline.data.formats.base import Opened

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
WEIGHT = "weight"
BESIDE_OWN = "the system prompt of a column is left out: the messages begin with another one"
Override = bool | None
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
"""The role names that data sets use, to ours."""

CALLING_ROLES = ("function_call", "tool_call")


def text_field(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """A text field of a row. Raises RowError."""
    value = present(row, key)
    if not isinstance(value, str):
        raise RowError(f"the field {key!r} is a {type(value).__name__}, not text")
    if not empty and not value.strip():
        raise RowError(f"the field {key!r} is empty")
    return value


def present(row: Mapping[str, Any], key: str) -> Any:
    """A field of a row that is there and not null. Raises RowError."""
    if key not in row:
        raise RowError(
            f"the field {key!r} is missing (found: {', '.join(map(str, row)) or 'none'})",
            "name the column that it is in with `columns:` of this source",
        )
    if row[key] is None:
        raise RowError(f"the field {key!r} is null")
    return row[key]


class ChatReader:
    """Reads the conversations of one source; `needs_answer` refuses such without an assistant message.

    Where a source fills missing keys with null, as Arrow and Parquet do, null means absent at every depth.
    """

    def __init__(self, opened: Opened, names: ColumnsSection, *, needs_answer: bool) -> None:
        self._names = names
        self._roles = {**ROLES, **opened.roles}
        self._needs_answer = needs_answer
        self._padded = opened.padded
        self._notes = opened.notes
        self._tool_arguments: ToolArguments = opened.tool_arguments

    @property
    def _train_key(self) -> str:
        return self._names.train or "train"

    @classmethod
    def of(cls, opened: Opened) -> ChatReader:
        """The reader of a source of samples to learn from."""
        return cls(opened, opened.names, needs_answer=opened.train_on != "all")

    def read(self, row: Mapping[str, Any]) -> Conversation:
        """The conversation in the row's message column. Raises RowError."""
        candidates = (self._names.messages,) if self._names.messages else MESSAGE_COLUMNS
        key = next((name for name in candidates if name in row), None)
        if key is None:
            raise RowError(f"the field {candidates[0]!r} is missing (found: {', '.join(map(str, row)) or 'none'})")
        return self.build(row[key], row)

    def build(self, raw: Any, row: Mapping[str, Any]) -> Conversation:
        """A conversation from raw messages and the row's system and tools columns."""
        messages, overrides = self.messages(raw)
        messages = self.with_system(row, messages)
        overrides[:0] = [None] * (len(messages) - len(overrides))
        if self._needs_answer and not any(message["role"] == "assistant" for message in messages):
            raise RowError(
                "no message is by the assistant",
                "an answer that is a column of its own is read by `format: prompt_completion` with `columns: {prompt: ..., "
                "completion: ...}`; other names of roles are mapped with `roles:`",
            )
        return Conversation(messages, overrides, self.tools(row))

    def messages(self, raw: Any) -> tuple[list[dict[str, Any]], list[Override]]:
        """A list of raw messages as ours, and for each whether it says itself to be learnt. Raises RowError."""
        if raw is None:
            raise RowError("the messages are null")
        if isinstance(raw, str):
            raw = self._of_text(raw)
        if not isinstance(raw, list):
            raise RowError(f"the messages are a {type(raw).__name__}, not a list")
        if not raw:
            raise RowError("there are no messages")
        messages, overrides = [], []
        for number, item in enumerate(raw, start=1):
            message, override = self._message(item, number)
            messages.append(message)
            overrides.append(override)
        return messages, overrides

    def _of_text(self, text: str) -> Any:
        """A list of messages that a table holds as JSON. Raises RowError."""
        try:
            found = json.loads(text)
        except ValueError:
            hint = "json.dumps writes a list into a table so that it can be read again; str does not"
            raise RowError("the messages are text that is no JSON", hint) from None
        self._notes.add("messages are JSON in a text", warns=False)
        return found

    # --- one message ------------------------------------------------------------------------------

    def _message(self, item: Any, number: int) -> tuple[dict[str, Any], bool | None]:
        if not isinstance(item, Mapping):
            raise RowError(f"message {number} is a {type(item).__name__}, not a mapping")
        item = _without_nulls(item) if self._padded else item
        role_key = self._key(item, self._names.role, ("role", "from"), "role", number)
        role = self._role(item[role_key], number)
        content_key = self._names.content or next((key for key in ("content", "value") if key in item), "content")
        override = self._override(item, number)
        known = {role_key, content_key, self._train_key, WEIGHT}
        message = {"role": role, **{key: value for key, value in item.items() if key not in known and value is not None}}
        calls = calls_of(
            message, item.get(content_key) if item[role_key] in CALLING_ROLES else None, number, self._tool_arguments
        )
        if calls:
            message["tool_calls"] = calls
        content = (
            None if calls and item[role_key] in CALLING_ROLES else self._content(item, content_key, role, bool(calls), number)
        )
        if content is not None:
            message["content"] = content
        return message, override

    def _override(self, item: Mapping[str, Any], number: int) -> Override:
        """Whether a message says itself to be learnt: by our key, or by OpenAI's `weight`, of which 1 says nothing."""
        own, weight = item.get(self._train_key), item.get(WEIGHT)
        for key, value, wanted in ((self._train_key, own, "true or false"), (WEIGHT, weight, "0 (not learnt) or 1")):
            if value is not None and value not in (0, 1):
                raise RowError(f"message {number}: {key!r} must be {wanted}")
        return bool(own) if own is not None else False if weight == 0 else None

    @staticmethod
    def _key(item: Mapping[str, Any], named: str | None, usual: tuple[str, ...], what: str, number: int) -> str:
        for key in (named,) if named else usual:
            if key in item:
                return key
        raise RowError(
            f"message {number} has no {named or what!r} (found: {', '.join(map(str, item)) or 'nothing'})",
            f"name the key that holds it with `columns: {{{what}: ...}}` of this source",
        )

    def _role(self, value: Any, number: int) -> str:
        role = self._roles.get(value) if isinstance(value, str) else None
        if role is None:
            raise RowError(f"message {number}: the role {value!r} is not known; map it with `roles:`")
        return role

    @staticmethod
    def _content(item: Mapping[str, Any], key: str, role: str, calls: bool, number: int) -> str | None:
        """The text of a message; None only beside tool calls."""
        value = item.get(key)
        if value is None:
            if calls:
                return None
            raise RowError(f"message {number} ({role}): {key!r} is {'null' if key in item else 'missing'}")
        if isinstance(value, list):
            value = _joined(value, number)
        if not isinstance(value, str):
            raise RowError(f"message {number} ({role}): {key!r} is a {type(value).__name__}, not text")
        if not value.strip() and not calls and role in ("user", "assistant"):
            raise RowError(f"message {number} ({role}): {key!r} is empty")
        return value

    # --- beside the messages ----------------------------------------------------------------------

    def with_system(self, row: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages behind the row's system prompt, unless they have one. Raises RowError."""
        system = self.system(row)
        if not system:
            return messages
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": system}, *messages]
        if str(messages[0].get("content")).strip() != system.strip():
            self._notes.dropped("system", BESIDE_OWN, short(system))
        return messages

    def system(self, row: Mapping[str, Any]) -> str | None:
        """The text of the row's system column; None when there is none or it is empty. Raises RowError."""
        key = self._names.system or "system"
        value = row.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise RowError(f"the field {key!r} is a {type(value).__name__}, not text")
        return value

    def tools(self, row: Mapping[str, Any]) -> list[Any] | None:
        """The tool definitions of the row. Raises RowError."""
        found = tools_of(row, self._names.tools)
        return [_without_nulls(tool) for tool in found] if found and self._padded else found

    def beside_text(self, row: Mapping[str, Any]) -> None:
        """Note what only a chat template could write, beside text that does not go through it."""
        for what, key in (("system", self._names.system or "system"), ("tools", self._names.tools or "tools")):
            if row.get(key):
                self._notes.dropped(
                    what, f"{what} is left out: plain text does not go through the chat template", short(row[key])
                )


def _joined(parts: list[Any], number: int) -> str:
    """The text of a content that is a list of parts."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RowError(f"message {number}: a content part of type {kind!r} is not text")
    return "".join(texts)


def _without_nulls(value: Any) -> Any:
    """`value` without the keys whose value is null, at every depth."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value

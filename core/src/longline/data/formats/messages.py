"""A row of a chat data set into messages as templates expect them, whatever its fields and roles are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longline.data.values import Conversation, RowError

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection
    from longline.data.formats.base import Opened

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
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
        raise RowError(f"the field {key!r} is missing (found: {', '.join(map(str, row)) or 'none'})")
    if row[key] is None:
        raise RowError(f"the field {key!r} is null")
    return row[key]


class ChatReader:
    """Reads the conversations of one source.

    `roles` adds names to ROLES; `needs_answer` refuses a conversation without an assistant message; `padded` says that the
    source fills missing keys with null (Arrow and Parquet do), so that null means absent at every depth.
    """

    def __init__(self, names: ColumnsSection, roles: Mapping[str, str], *, needs_answer: bool, padded: bool) -> None:
        self._names = names
        self._roles = {**ROLES, **roles}
        self._needs_answer = needs_answer
        self._padded = padded
        self._train_key = names.train or "train"

    @classmethod
    def of(cls, opened: Opened) -> ChatReader:
        """The reader of a source of samples to learn from."""
        return cls(opened.names, opened.roles, needs_answer=opened.train_on != "all", padded=opened.padded)

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
        system = self.system(row)
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
            overrides.insert(0, None)
        if self._needs_answer and not any(message["role"] == "assistant" for message in messages):
            raise RowError("no message is by the assistant")
        return Conversation(messages, overrides, self.tools(row))

    def messages(self, raw: Any) -> tuple[list[dict[str, Any]], list[Override]]:
        """A list of raw messages as ours, and for each whether it says itself to be learnt. Raises RowError."""
        if raw is None:
            raise RowError("the messages are null")
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

    # --- one message ------------------------------------------------------------------------------

    def _message(self, item: Any, number: int) -> tuple[dict[str, Any], bool | None]:
        if not isinstance(item, Mapping):
            raise RowError(f"message {number} is a {type(item).__name__}, not a mapping")
        item = _without_nulls(item) if self._padded else item
        role_key = self._key(item, self._names.role, ("role", "from"), "role", number)
        role = self._role(item[role_key], number)
        content_key = self._names.content or next((key for key in ("content", "value") if key in item), "content")
        override = item.get(self._train_key)
        if override is not None and override not in (0, 1):
            raise RowError(f"message {number}: {self._train_key!r} must be true or false")
        known = {role_key, content_key, self._train_key}
        message = {"role": role, **{key: value for key, value in item.items() if key not in known and value is not None}}
        calls = self._calls(message, item.get(content_key) if item[role_key] in CALLING_ROLES else None, number)
        if calls:
            message["tool_calls"] = calls
        content = (
            None if calls and item[role_key] in CALLING_ROLES else self._content(item, content_key, role, bool(calls), number)
        )
        if content is not None:
            message["content"] = content
        return message, None if override is None else bool(override)

    @staticmethod
    def _key(item: Mapping[str, Any], named: str | None, usual: tuple[str, ...], what: str, number: int) -> str:
        for key in (named,) if named else usual:
            if key in item:
                return key
        raise RowError(f"message {number} has no {named or what!r} (found: {', '.join(map(str, item)) or 'nothing'})")

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

    def _calls(self, message: dict[str, Any], called: Any, number: int) -> list[Any] | None:
        """Tool calls with their arguments as mappings, which is what templates print; `called` is ShareGPT's JSON text."""
        calls = message.pop("tool_calls", None)
        if isinstance(called, str):
            parsed = _json(called)
            calls = [parsed] if isinstance(parsed, dict) else parsed
            if not isinstance(calls, list) or not all(isinstance(call, dict) and "name" in call for call in calls):
                return None
            calls = [{"type": "function", "function": call} for call in calls]
        if not calls:
            return None
        if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
            raise RowError(f"message {number}: 'tool_calls' must be a list of mappings")
        return [_with_mapping_arguments(call) for call in calls]

    # --- beside the messages ----------------------------------------------------------------------

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
        key = self._names.tools or "tools"
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            value = _json(value)
            if value is None:
                raise RowError(f"the field {key!r} is not valid JSON")
        if not value:
            return None
        if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
            raise RowError(f"the field {key!r} must be a list of tool definitions")
        return [_without_nulls(tool) for tool in value] if self._padded else value


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


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _with_mapping_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are a mapping where they were the JSON text of one."""
    inner = call.get("function")
    if isinstance(inner, Mapping):
        return {**call, "function": _with_mapping_arguments(inner)}
    parsed = _json(call["arguments"]) if isinstance(call.get("arguments"), str) else None
    return {**call, "arguments": parsed} if isinstance(parsed, dict) else dict(call)


def _without_nulls(value: Any) -> Any:
    """`value` without the keys whose value is null, at every depth."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value

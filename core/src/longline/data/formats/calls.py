"""Tool calls and definitions, as data sets have them, into the form that chat templates print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longline.data.values import RowError, short

if TYPE_CHECKING:
    from longline.config.sections import ToolArguments


def calls_of(message: dict[str, Any], called: Any, number: int, rule: ToolArguments) -> list[Any] | None:
    """The tool calls of a message, taken out of it, with their arguments as mappings: templates print those.

    `called` is the text of a message whose role says that it is a call (ShareGPT); `function_call` is what OpenAI had before
    `tool_calls`. None: it calls nothing. Raises RowError.
    """
    calls, old = message.pop("tool_calls", None), message.pop("function_call", None)
    if not calls and old:
        calls = [{"type": "function", "function": parsed(old)}]
    if isinstance(called, str):
        found = parsed(called)
        found = [found] if isinstance(found, dict) else found
        if not isinstance(found, list) or not all(isinstance(call, dict) and "name" in call for call in found):
            if rule == "strict" and called.lstrip()[:1] in ("{", "["):
                raise RowError(f"message {number}: its call is no JSON object with a name: {short(called)}")
            return None
        calls = [{"type": "function", "function": call} for call in found]
    if not calls:
        return None
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise RowError(f"message {number}: 'tool_calls' must be a list of mappings")
    return [_with_mapping_arguments(call, number, rule) for call in calls]


def _with_mapping_arguments(call: Mapping[str, Any], number: int, rule: ToolArguments) -> dict[str, Any]:
    """A call whose arguments are a mapping where they were the JSON text of one, or missing. Raises RowError."""
    inner = call.get("function")
    if isinstance(inner, Mapping):
        return {**call, "function": _with_mapping_arguments(inner, number, rule)}
    given = call.get("arguments", {})
    found = parsed(given) if isinstance(given, str) else {} if given is None else given
    if isinstance(given, str) and given.strip() in ("", "null") and rule == "empty":
        found = {}
    if isinstance(found, Mapping):
        return {**call, "arguments": found}
    if rule != "as_is":
        what = "are an empty text" if given == "" else f"are no JSON object: {short(given)}"
        way = (
            "`data.tool_arguments: empty` takes that for none" if given == "" else "`data.tool_arguments: as_is` lets any pass"
        )
        raise RowError(f"message {number}: the arguments of its call of {call.get('name')!r} {what}; {way}")
    return dict(call)


def tools_of(row: Mapping[str, Any], named: str | None) -> list[Any] | None:
    """The tool definitions of a row, in a column of lists or JSON text; `functions` are what OpenAI had before. Raises RowError."""
    key = named or next((name for name in ("tools", "functions") if row.get(name)), "tools")
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        value = parsed(value)
        if value is None:
            raise RowError(f"the field {key!r} is not valid JSON")
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise RowError(f"the field {key!r} must be a list of tool definitions")
    return value if key != "functions" else [{"type": "function", "function": tool} for tool in value]


def parsed(value: Any) -> Any:
    """What a JSON text says, None where it is none; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None

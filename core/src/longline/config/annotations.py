"""Type annotations as the source spells them: whether a value from a config fits, and how to say what would.

Understood are the types that a config can hold (int, float, bool, str, None, dict, list, tuple, Literal, unions of them) and
enumerations of text. Any other class needs an object that YAML cannot write.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TYPES: dict[str, tuple[str, type, str]] = {
    "int": ("a whole number", int, "integer"),
    "float": ("a number", float, "number"),
    "bool": ("true or false", bool, "boolean"),
    "str": ("text", str, "string"),
    "none": ("nothing", NoneType, "null"),
    "dict": ("keys with values", dict, "object"),
    "list": ("a list", list, "array"),
    "tuple": ("a list", list, "array"),
}
"""The types that a config can hold: in words, as YAML is read, and in JSON schema."""
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a union: a known type's name, `Literal`, `Enum`, `Any`, or another class's name in `other`."""

    kind: str
    values: tuple[Any, ...] = ()
    items: Annotation | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """A type as a union of members, and its source text."""

    text: str
    members: tuple[Member, ...]
    lookup: Callable[[str], tuple[str, ...] | None]

    def fit(self, value: Any) -> tuple[bool, Any]:
        """Whether a value fits, and the value as the library wants it: "3" for an int becomes 3, 100.0 becomes 100."""
        members = list(self._resolved())
        if any(_exact(member, value) for member in members):
            return True, value
        for member in members:
            fits, converted = _convert(member, value)
            if fits:
                return True, converted
        return False, value

    def words(self) -> tuple[str, ...]:
        """The words that text must be one of, when it must."""
        members = list(self._resolved())
        if any(member.kind == "str" for member in members):
            return ()
        return tuple(word for member in members for word in member.values if isinstance(word, str))

    def plain(self) -> str:
        """What the type asks for, in words: `a whole number or nothing`."""
        members = sorted(self._resolved(), key=lambda member: member.kind == "none")
        return " or ".join(dict.fromkeys(_words(member) for member in members))

    def _resolved(self) -> Iterator[Member]:
        """The members with enumerations looked up; free text beside one is there for typing's sake only and left out."""
        found: list[Member] = []
        for member in self.members:
            values = self.lookup(member.values[0]) if member.kind == "other" else None
            found.append(Member("Enum", values) if values else member)
        has_enum = any(member.kind == "Enum" for member in found)
        yield from (member for member in found if not (has_enum and member.kind == "str"))

    def schema(self) -> dict[str, Any]:
        """The type as JSON schema; empty when anything goes."""
        parts = [_schema(member) for member in self._resolved() if member.kind != "other"]
        if not parts or {} in parts:
            return {}
        return parts[0] if len(parts) == 1 else {"anyOf": parts}


def read_annotation(expression: ast.expr, lookup: Callable[[str], tuple[str, ...] | None]) -> Annotation:
    """Read an annotation's syntax tree; `lookup` gives the words of an enumeration by its name, or None."""
    return Annotation(ast.unparse(expression), tuple(_members(expression, lookup)), lookup)


def _members(expression: ast.expr, lookup: Callable[[str], tuple[str, ...] | None]) -> Iterator[Member]:
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.BitOr):
        yield from _members(expression.left, lookup)
        yield from _members(expression.right, lookup)
    elif isinstance(expression, ast.Constant):
        if isinstance(expression.value, str):
            yield from _members(ast.parse(expression.value, mode="eval").body, lookup)
        else:
            yield Member("none")
    elif isinstance(expression, ast.Subscript):
        yield from _subscript(_name(expression.value), expression.slice, lookup)
    else:
        name = _name(expression)
        known = name == "Any" or name in {*_TYPES, "Dict", "List"}
        yield Member(name if name == "Any" else name.lower()) if known else Member("other", (name,))


def _subscript(name: str, inside: ast.expr, lookup: Callable[[str], tuple[str, ...] | None]) -> Iterator[Member]:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name in {"Optional", "Union"}:
        for part in parts:
            yield from _members(part, lookup)
        if name == "Optional":
            yield Member("none")
    elif name == "Literal":
        yield Member("Literal", tuple(part.value for part in parts if isinstance(part, ast.Constant)))
    elif name in {"list", "List", "Sequence"}:
        yield Member("list", items=read_annotation(parts[0], lookup))
    elif name in {"dict", "Dict", "Mapping", "tuple", "Tuple"}:
        yield Member("tuple" if name in {"tuple", "Tuple"} else "dict")
    else:
        yield Member("other", (name,))


def _name(expression: ast.expr) -> str:
    return expression.attr if isinstance(expression, ast.Attribute) else ast.unparse(expression)


def _words(member: Member) -> str:
    if member.kind == "other":
        return f"an object of the class {member.values[0]} (which a config cannot hold)"
    if member.values:
        return f"one of {', '.join(str(value).lower() for value in member.values)}"
    if member.items:
        return f"a list (each item {member.items.plain()})"
    return _TYPES[member.kind][0] if member.kind in _TYPES else "any value"


def _exact(member: Member, value: Any) -> bool:
    kind = member.kind
    if kind in {"Literal", "Enum"}:
        return any((value == word and type(value) is type(word)) or _open_word(word, value) for word in member.values)
    if kind == "list":
        return isinstance(value, list) and (member.items is None or all(member.items.fit(item)[0] for item in value))
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind == "Any" or (kind in _TYPES and type(value) is _TYPES[kind][1])


def _open_word(word: Any, value: Any) -> bool:
    """`pissa_niter_[number of iters]`: a literal that stands for many."""
    return isinstance(word, str) and isinstance(value, str) and "[" in word and value.startswith(word.partition("[")[0])


def _convert(member: Member, value: Any) -> tuple[bool, Any]:
    try:
        if member.kind == "int" and isinstance(value, (str, float)) and float(value).is_integer():
            return True, int(float(value))
        if member.kind == "float" and isinstance(value, str):
            return True, float(value)
    except (ValueError, OverflowError):
        return False, value
    if member.kind == "bool" and isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return True, value.lower() in _TRUE
    return False, value


def _schema(member: Member) -> dict[str, Any]:
    if member.kind in {"Literal", "Enum"}:
        if any("[" in word for word in member.values if isinstance(word, str)):
            return {"type": "string"}
        return {"enum": list(member.values)}
    if member.kind == "list":
        items = member.items.schema() if member.items else {}
        return {"type": "array", **({"items": items} if items else {})}
    return {"type": _TYPES[member.kind][2]} if member.kind in _TYPES else {}

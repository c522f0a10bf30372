"""YAML text to a tree of nodes that know where they stand; nothing here knows what a config means.

The dialect is what a person expects of a config, close to YAML 1.2: `1e-4` is a number, only `true` and `false` are booleans
(`yes`, `no`, `on` and `off` stay text), dates and `12:30` stay text, keys are always text. Anchors, aliases and merge keys
(`<<`) work. Tags of other languages, repeated keys and files made to exhaust memory are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from longline.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Key: TypeAlias = "str | int"
Keys: TypeAlias = "tuple[Key, ...]"

# No config comes near these; a data file that was named by mistake, and aliases of aliases, do.
MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 64

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_TAG = "tag:yaml.org,2002:"
# YAML 1.1, as PyYAML reads it, takes `1e-4` for text and `no` for false: the two mistakes that configs are known for.
_IMPLICIT: tuple[tuple[str, str, str], ...] = (
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    (
        "float",
        (
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
    ("merge", r"^<<$", "<"),
)
IMPLICIT_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
"""What plain text means, by its first character: shared with the writer, so that what is written reads back the same."""
for _name, _pattern, _first in _IMPLICIT:
    for _character in _first:
        IMPLICIT_RESOLVERS.setdefault(_character.replace("\0", ""), []).append((_TAG + _name, re.compile(_pattern)))


@dataclass(frozen=True, slots=True)
class Place:
    """A position that a message can name: line and column count from 1; an override has no line and says `--set KEY`."""

    source: str
    line: int = 0
    column: int = 0
    rank: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts the file's places by line and column, and overrides after them in the order given."""
        return (self.rank, self.line, self.column)


@dataclass(slots=True)
class Node:
    """A value with its place, and the place of the key it stands under (its own when it has none).

    `value` is a dict of nodes, a list of nodes, or a scalar. `template` is the text before `${NAME}` was replaced.
    """

    value: Any
    at: Place
    key: Place
    template: str | None = None

    @property
    def focus(self) -> Place:
        """Where a message about the value points: at the value when it stands on the line of its key, else at the key."""
        return self.at if self.at.line == self.key.line else self.key

    def child(self, key: Key) -> Node | None:
        """The node under `key` (text for a mapping, an index for a list), or None."""
        if isinstance(self.value, dict):
            found: Node | None = self.value.get(str(key))
            return found
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            item: Node = self.value[key]
            return item
        return None

    def find(self, keys: Keys) -> Node | None:
        """The node at the end of `keys`, or None."""
        node: Node | None = self
        for key in keys:
            node = node.child(key) if node else None
        return node

    def nearest(self, keys: Keys) -> Node:
        """The node at the end of `keys`, or its nearest parent that exists."""
        node = self
        for key in keys:
            below = node.child(key)
            if below is None:
                return node
            node = below
        return node

    def plain(self) -> Any:
        """The value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self, keys: Keys = ()) -> Iterator[tuple[Keys, Node]]:
        """This node and all below it, each with its keys."""
        yield keys, self
        items = (
            self.value.items()
            if isinstance(self.value, dict)
            else enumerate(self.value)
            if isinstance(self.value, list)
            else ()
        )
        for key, node in items:
            yield from node.walk((*keys, key))


def dotted(keys: Keys) -> str:
    """Keys as a person writes them: `data.train.0.path`."""
    return ".".join(str(key) for key in keys)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the dialect above, stopped by documents too large or too deep for a config."""

    yaml_implicit_resolvers = IMPLICIT_RESOLVERS

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH or self.count > MAX_NODES:
            mark = parent.start_mark if parent else None
            raise yaml.MarkedYAMLError(problem=_too_much(self.depth > MAX_DEPTH), problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _too_much(deep: bool) -> str:
    return f"nested deeper than {MAX_DEPTH} levels" if deep else f"more than {MAX_NODES} values, aliases counted at each use"


def read_text(path: Path) -> str:
    """The text of a config file; raises ConfigError when it is missing, no file, too large, or not UTF-8."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file", hint=_similar_file(path))
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a config file")
    if not path.is_file():
        raise ConfigError(f"{path}: is not a regular file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ConfigError(f"{path}: {size:,} bytes; a config is at most {MAX_BYTES:,}", hint="is this a data file?")
    try:
        # Editors on Windows put a byte order mark in front; the columns in messages count without it.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        where = f"{path}:{line}:{column}"
        byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise ConfigError([Problem(f"not UTF-8: {byte}", where=where, hint="save the file as UTF-8")]) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def _similar_file(path: Path) -> str | None:
    from difflib import get_close_matches

    folder = path.parent
    names = [item.name for item in folder.iterdir() if item.suffix in {".yaml", ".yml"}] if folder.is_dir() else []
    close = get_close_matches(path.name, names, n=1)
    return f"did you mean {folder / close[0]}?" if close else None


def parse(text: str, source: str, *, rank: int = 0, marked: bool = True) -> Node | None:
    """Read one YAML document into nodes; None for an empty one.

    `source` names the file, or the override (then `marked` is False and places carry no line). Raises ConfigError: with the
    first mistake where the text is no YAML, with all repeated keys and refused tags otherwise.
    """

    def place(mark: yaml.Mark | None) -> Place:
        return Place(source, mark.line + 1, mark.column + 1, rank) if marked and mark else Place(source, rank=rank)

    _refuse_control_characters(text, source, marked)
    try:
        top = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        where = str(place(error.problem_mark or error.context_mark))
        message, hint = _plain_words(error)
        raise ConfigError([Problem(message, where=where, hint=hint)]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError([Problem(f"not valid YAML: {error}", where=source)]) from None
    if top is None:
        return None
    builder = _Builder(place)
    node = builder.build(top)
    if builder.problems:
        raise ConfigError(builder.problems)
    return node


def _refuse_control_characters(text: str, source: str, marked: bool) -> None:
    found = _CONTROL.search(text)
    if not found:
        return
    before = text[: found.start()]
    where = f"{source}:{before.count(chr(10)) + 1}:{found.start() - (before.rfind(chr(10)) + 1) + 1}" if marked else source
    raise ConfigError([Problem(f"control character U+{ord(found[0]):04X} is not allowed in YAML", where=where)])


def _plain_words(error: yaml.MarkedYAMLError) -> tuple[str, str | None]:
    """Message and hint: the mistakes that people make most, in words that help."""
    problem = error.problem or "not valid YAML"
    if "'\\t'" in problem:
        return ("a tab cannot indent YAML", "use spaces")
    if problem.startswith(("nested deeper", "more than")):
        return (problem, "a config does not need that; is this the right file?")
    if "mapping values are not allowed" in problem:
        return ("`: ` is not allowed here", "quote the text if it contains a colon, or check the indentation above")
    if "another document" in problem:
        return ("a second document begins here; a config is one document", None)
    if "expected <block end>" in problem or "could not find expected ':'" in problem:
        return (f"not valid YAML: {problem}", "check the indentation and the quotes here and in the line above")
    context = f" {error.context}" if error.context else ""
    return (f"not valid YAML:{context}{',' if context else ''} {problem}", None)


class _Builder:
    """Turns PyYAML's nodes into ours: aliases are expanded within a budget, merge keys applied, tags and duplicates refused."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self.count = 0
        self.open: list[yaml.Node] = []
        self.problems: list[Problem] = []

    def build(self, source: yaml.Node, key: Place | None = None) -> Node:
        self.count += 1
        at = self.place(source.start_mark)
        if any(source is parent for parent in self.open):
            raise self._end(at, "an alias that contains itself")
        if self.count > MAX_NODES:
            raise self._end(at, _too_much(deep=False), "aliases of aliases grow without bound")
        if len(self.open) > MAX_DEPTH:
            raise self._end(at, _too_much(deep=True))
        self.open.append(source)
        if isinstance(source, yaml.MappingNode):
            value: Any = self._mapping(source)
        elif isinstance(source, yaml.SequenceNode):
            self._known_tag(source, "seq")
            value = [self.build(item) for item in source.value]
        else:
            value = self._scalar(source)
        self.open.pop()
        return Node(value, at, key or at)

    def _mapping(self, source: yaml.MappingNode) -> dict[str, Node]:
        self._known_tag(source, "map")
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in source.value:
            at = self.place(key_node.start_mark)
            if key_node.tag == f"{_TAG}merge":
                for name, node in self._merge(value_node).items():
                    merged.setdefault(name, node)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(at, "a key must be text, not a list or a mapping")
                continue
            self._scalar(key_node)
            name = str(key_node.value)
            if name in own:
                self._refuse(at, f"`{name}` is given twice; the first is at {own[name].key}", "keep one of them")
                continue
            own[name] = self.build(value_node, at)
        return {**{name: node for name, node in merged.items() if name not in own}, **own}

    def _merge(self, source: yaml.Node) -> dict[str, Node]:
        """What `<<: *anchor` or `<<: [*a, *b]` brings in; earlier ones win."""
        items = source.value if isinstance(source, yaml.SequenceNode) else [source]
        found: dict[str, Node] = {}
        for item in items:
            node = self.build(item)
            if not isinstance(node.value, dict):
                self._refuse(node.at, "`<<` needs a mapping, or a list of mappings")
                continue
            for name, child in node.value.items():
                found.setdefault(name, child)
        return found

    def _scalar(self, source: yaml.Node) -> Any:
        text = str(source.value)
        kind = self._known_tag(source, "str", "null", "bool", "int", "float", "merge")
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, 0 if text[:2].lower() in {"0x", "0o"} else 10)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            self._refuse(self.place(source.start_mark), f"`{text[:60]}` cannot be read as {kind}")
        return text

    def _known_tag(self, source: yaml.Node, *allowed: str) -> str:
        kind = str(source.tag).removeprefix(_TAG)
        if kind not in allowed:
            tag = f"!!{kind}" if str(source.tag).startswith(_TAG) else kind
            self._refuse(
                self.place(source.start_mark), f"the YAML tag `{tag}` is not allowed", "a config holds plain values only"
            )
        return kind

    def _refuse(self, at: Place, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(message, where=str(at), hint=hint))

    def _end(self, at: Place, message: str, hint: str | None = None) -> ConfigError:
        """What makes reading on pointless: everything found so far, and this."""
        return ConfigError([*self.problems, Problem(message, where=str(at), hint=hint)])


def move(node: Node, key: Place) -> Node:
    """The same node under another key's place."""
    return replace(node, key=key)

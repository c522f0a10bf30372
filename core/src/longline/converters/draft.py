"""What a converter writes into: the config that comes of a file, and word of every key of that file.

Nothing of the file can be dropped silently: what nobody spoke of when the converter is done is reported as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longline.config import document
from longline.config.document import Key, Keys, Node, dotted
from longline.converters.comments import Comment, comments_of, spelled
from longline.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Status = Literal["translated", "noted", "unneeded", "unsupported", "unset"]
LIKE = 0.8
"""How much alike an unknown key and a known one must be, so that it is named: a hint that does not fit is worse than none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one key of the file: the places of the config that it went to, and what a person should know of it.

    `unneeded` is a key for which nothing has to be set, `unset` one without a value. `note` of an unsupported one says what comes
    nearest.
    """

    keys: Keys
    status: Status
    to: tuple[Keys, ...] = ()
    note: str = ""


@dataclass
class Draft:
    """A file that is being translated. Keys of the file are a name, or a tuple of names and indices; so are places of the config,
    which may be dotted too.

    Attributes:
        source: the file, as messages name it.
        config: the config so far, as plain mappings, lists and values.
        entries: what became of each key so far.
        added: what the config says although the file does not, with the reason: defaults of the other tool that are not ours.
        problems: what is wrong with the file.
    """

    source: str
    tool: str
    root: Node = field(repr=False)
    comments: list[Comment] = field(repr=False)
    config: dict[str, Any] = field(default_factory=dict)
    entries: dict[Keys, Entry] = field(default_factory=dict)
    added: dict[Keys, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    homes: dict[Keys, Keys] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, tool: str) -> Draft:
        """Open a file. Raises ConfigError when it is no YAML mapping."""
        text = document.read_text(path)
        root = document.parse(text, str(path))
        if root is None:
            raise ConfigError([Problem("the file is empty", where=str(path))])
        if not isinstance(root.value, dict):
            kind = "a list" if isinstance(root.value, list) else "a single value"
            raise ConfigError([Problem(f"{kind} at the top; a config is keys with values", where=str(root.at))])
        spelled(root, text)
        return cls(str(path), tool, root, comments_of(text))

    # --- the file -------------------------------------------------------------------------------------------------------------

    def get(self, *keys: Key) -> Any:
        """The value of a key; None when it is not there or has none, or an empty text."""
        node = self.root.find(keys)
        return None if node is None or node.value == "" else node.plain()

    def items(self, *keys: Key) -> Iterator[tuple[Keys, Any]]:
        """What a list or a mapping holds, with its keys; one value in place of a list is a list of it."""
        node = self.root.find(keys)
        if node is None or node.value is None:
            return
        if not isinstance(node.value, (dict, list)):
            yield keys, node.value
            return
        inside: Iterable[tuple[Key, Node]] = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
        for key, child in inside:
            yield (*keys, key), child.plain()

    def mapping(self, *keys: Key) -> dict[str, Any]:
        """A mapping of the file, empty where there is none; anything else is a problem."""
        value = self.get(*keys)
        if value is None or isinstance(value, dict):
            return value or {}
        self.problem(keys, "must be keys with values")
        return {}

    def number(self, *keys: Key) -> float | int | None:
        """A number of the file, also one that is written as text; anything else is a problem."""
        value = self.get(*keys)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.problem(keys, "must be a number")
            return None
        return int(number) if number.is_integer() else number

    def problem(self, keys: str | Keys, message: str, hint: str | None = None) -> None:
        """Say that something is wrong with the file."""
        keys = _tuple(keys)
        self.problems.append(Problem(message, dotted(keys), str(self.root.nearest(keys).focus), hint))
        if keys:
            self.entries.setdefault(keys, Entry(keys, "unsupported", note=message))

    # --- the config -----------------------------------------------------------------------------------------------------------

    def put(self, to: str | Keys, value: Any, *of: str | Keys, note: str = "") -> None:
        """Set a place of the config from keys of the file; with a note if it is not quite the same there."""
        place = _place(to)
        _set(self.config, place, _literal(value))
        for keys in map(_tuple, of):
            was = self.entries.get(keys)
            places = (*(was.to if was else ()), place)
            told = "; ".join(dict.fromkeys(text for text in (was.note if was else "", note) if text))
            self.entries[keys] = Entry(keys, "noted" if told else "translated", tuple(dict.fromkeys(places)), told)

    def add(self, to: str | Keys, value: Any, why: str) -> None:
        """Set what the other tool would do where its file is silent, and Longline would do something else."""
        place = _place(to)
        _set(self.config, place, _literal(value))
        self.added[place] = why

    def accept(self, keys: str | Keys, why: str, *, mind: bool = False) -> None:
        """Nothing has to be set for this key; `why` says so. With `mind` a person should still know of it."""
        keys = _tuple(keys)
        self.entries[keys] = Entry(keys, "noted" if mind else "unneeded", note=why)

    def refuse(self, keys: str | Keys, nearest: str) -> None:
        """There is no equal here; `nearest` says what comes nearest."""
        keys = _tuple(keys)
        self.entries[keys] = Entry(keys, "unsupported", note=nearest)

    def house(self, keys: str | Keys, to: str | Keys) -> None:
        """Where a list or mapping of the file went whose items are told one by one, for the comments above it."""
        self.homes[_tuple(keys)] = _place(to)

    def spoken(self, keys: str | Keys) -> bool:
        """Whether it was said what became of a key, or of something in it."""
        keys = _tuple(keys)
        return any(known[: len(keys)] == keys or keys[: len(known)] == known for known in self.entries)

    # --- the end --------------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Speak of every key that nobody spoke of: null is unset, anything else is unknown. Then tell all in the file's order."""
        for keys in list(self._left((), self.root)):
            if _nothing(self.get(*keys)):
                self.entries[keys] = Entry(keys, "unset")
                continue
            meant = get_close_matches(str(keys[-1]), self.known, 1, LIKE) if len(keys) == 1 else []
            self.refuse(
                keys, f"{meant[0]}, which it may be meant to be" if meant else f"nobody here knows this key of {self.tool}"
            )
        self.entries = dict(sorted(self.entries.items(), key=lambda item: self.root.nearest(item[0]).key.order))

    def _left(self, keys: Keys, node: Node) -> Iterator[Keys]:
        inside: Iterable[tuple[Key, Node]] = ()
        if isinstance(node.value, (dict, list)):
            inside = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
        for key, child in inside:
            below = (*keys, key)
            if below in self.entries:
                continue
            if any(known[: len(below)] == below for known in self.entries):
                yield from self._left(below, child)
            else:
                yield below

    def entry_of(self, keys: Keys) -> Entry | None:
        """What became of a key: its own entry, that of what it lies in, or the first of what lies in it."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.entries:
                return self.entries[keys[:length]]
        return next((entry for known, entry in self.entries.items() if known[: len(keys)] == keys), None)


def _nothing(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return all(map(_nothing, value.values() if isinstance(value, dict) else value))
    return value in (None, "")


def _tuple(keys: str | Keys) -> Keys:
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _place(to: str | Keys) -> Keys:
    return tuple(to.split(".")) if isinstance(to, str) else tuple(to)


def _literal(value: Any) -> Any:
    """The value with `${` as Longline writes the text: other tools' configs read no environment by it."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def _set(tree: dict[str, Any], place: Keys, value: Any) -> None:
    """Put a value at a place, making the mappings and lists on the way."""
    above: Any = tree
    for key, below in pairwise((*place, None)):
        there = None
        if isinstance(above, list):
            above += [None] * (int(key or 0) + 1 - len(above))
        if below is None:
            above[key] = value
            return
        there = above[key] if isinstance(above, list) or key in above else None  # type: ignore[index]
        if there is None:
            there = above[key] = [] if isinstance(below, int) else {}
        above = there

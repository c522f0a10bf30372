"""A draft as the text of a config: the sections in their order, with the comments of the file that it comes from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import longline
from longline.config.document import Keys, dotted
from longline.config.dump import Dumper
from longline.config.explain import models_in
from longline.config.secrets import MASK, is_plain, looks_secret, mask_userinfo
from longline.config.sections import Config
from longline.converters.comments import owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from longline.converters.draft import Draft, Entry

WIDTH = 110


def written(draft: Draft) -> str:
    """The config, and below it as comments what has no equal."""
    notes = _Notes(draft)
    lines = [f"# Converted from {Path(draft.source).name} ({draft.tool}) by longline {longline.__version__}.", *notes.head]
    for name, value in _ordered(draft.config, Config).items():
        lines += ["", *_pair(name, value, (name,), 0, notes)]
    lines += [line for block in (_without_equal(draft, notes), notes.foot) if block for line in ("", *block)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _ordered(tree: Any, *models: type[BaseModel]) -> Any:
    """The keys of each section in its own order; those of libraries as they came."""
    if isinstance(tree, list):
        return [_ordered(item, *models) for item in tree]
    fields = {name: info for model in models for name, info in model.model_fields.items()}
    if not isinstance(tree, dict) or not fields:
        return tree
    order = {name: number for number, name in enumerate(fields)}
    names = sorted(tree, key=lambda name: order.get(name, len(order)))
    return {name: _ordered(tree[name], *(models_in(fields[name].annotation) if name in fields else ())) for name in names}


class _Notes:
    """Where the comments of the file go: above a place of the config, beside it, or to a key that has no place."""

    def __init__(self, draft: Draft) -> None:
        self.head: list[str] = []
        self.foot: list[str] = []
        self.above: defaultdict[Keys, list[str]] = defaultdict(list)
        self.beside: dict[Keys, str] = {}
        self.lost: defaultdict[Keys, list[str]] = defaultdict(list)
        for comment, keys in owners(draft.root, draft.comments):
            entry = draft.entry_of(keys) if keys else None
            home = draft.homes.get(keys) if keys else None
            home = home if home and at(draft, home) is not None else None
            if not keys:
                (self.head if keys is None else self.foot).append(comment.text)
            elif home or (entry and entry.to):
                place = home or entry.to[0]  # type: ignore[union-attr]
                value = at(draft, place)
                if comment.alone or place in self.beside or isinstance(value, (dict, list)) or "\n" in str(value):
                    self.above[place].append(comment.text)
                else:
                    self.beside[place] = comment.text
            elif entry:
                self.lost[entry.keys].append(comment.text)
            else:
                self.foot.append(comment.text)


def at(draft: Draft, place: Keys) -> Any:
    """What stands at a place of the config; None for nothing."""
    value: Any = draft.config
    try:
        for key in place:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return None
    return value


def _without_equal(draft: Draft, notes: _Notes) -> list[str]:
    """The keys that have no place in the config, with their comments, as comments; of others only such as had comments."""
    told = [
        entry
        for entry in draft.entries.values()
        if not entry.to and (entry.status == "unsupported" or entry.keys in notes.lost)
    ]
    if not told:
        return []
    lines = [f"# What has no place here; `longline convert {draft.tool}` said why, and what comes nearest:"]
    for entry in told:
        lines += [f"#   {comment}" for comment in notes.lost[entry.keys]]
        lines += [f"#   {line}" for line in shown(draft, entry).split("\n")]
    return lines


def shown(draft: Draft, entry: Entry) -> str:
    """A key of the file with its value on one line, without what may be a secret."""
    value = draft.get(*entry.keys)
    return f"{dotted(entry.keys)}: {inline(_masked(value, str(entry.keys[-1])))}".rstrip()


def _masked(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return MASK if looks_secret(name) and not is_plain(value) else mask_userinfo(value)


def inline(value: Any) -> str:
    """A value on one line of YAML; nothing for null."""
    if value is None:
        return ""
    text: str = yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=1 << 30, sort_keys=False)
    return text.removesuffix("...\n").strip()


# --- the config ---------------------------------------------------------------------------------------------------------------


def _pair(name: str, value: Any, place: Keys, indent: int, notes: _Notes) -> Iterator[str]:
    """The lines of a key with its value."""
    pad = " " * indent
    yield from (f"{pad}{text}" for text in notes.above[place])
    beside = f"  {notes.beside[place]}" if place in notes.beside else ""
    key = inline(name)
    if isinstance(value, str) and _is_block(value):
        yield f"{pad}{key}: |{'' if value.endswith(chr(10)) else '-'}"
        yield from (f"{pad}  {line}" if line else "" for line in value.removesuffix("\n").split("\n"))
    elif _is_nested(value, place, notes, indent + len(key)):
        yield f"{pad}{key}:"
        yield from _inside(value, place, indent + 2, notes)
    else:
        yield f"{pad}{key}: {inline(value)}{beside}"


def _inside(value: Any, place: Keys, indent: int, notes: _Notes) -> Iterator[str]:
    """The lines of a mapping or a list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _pair(key, item, (*place, key), indent, notes)
        return
    pad = " " * indent
    for number, item in enumerate(value):
        below = (*place, number)
        yield from (f"{pad}{text}" for text in notes.above[below])
        if isinstance(item, dict) and item:
            first, *rest = _inside(item, below, indent + 2, notes)
            while first.lstrip().startswith("#") and rest:  # the comment above an item's first key stands above the item
                yield f"{pad}{first.lstrip()}"
                first, *rest = rest
            yield from (f"{pad}- {first.lstrip()}", *rest)
        else:
            yield f"{pad}- {inline(item)}"


def _is_nested(value: Any, place: Keys, notes: _Notes, used: int) -> bool:
    """Whether a value gets lines of its own: a section, what holds mappings or comments, or what is too long for one."""
    if not isinstance(value, (dict, list)) or not value:
        return False
    inside = value.values() if isinstance(value, dict) else value
    commented = any(known[: len(place)] == place and len(known) > len(place) and texts for known, texts in notes.above.items())
    commented = commented or any(known[: len(place)] == place and len(known) > len(place) for known in notes.beside)
    deep = any(isinstance(item, (dict, list)) and item for item in inside)
    return len(place) == 1 or commented or deep or used + len(inline(value)) > WIDTH


def _is_block(text: str) -> bool:
    """Whether a text can stand as it is on lines of its own."""
    lines = text.removesuffix("\n").split("\n")
    plain = all(line == line.rstrip() and line.isprintable() for line in lines)
    return len(lines) > 1 and plain and bool(lines[-1]) and not lines[0].startswith(" ") and bool(lines[0])

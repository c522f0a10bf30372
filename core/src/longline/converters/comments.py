"""The comments of a YAML file, and which key each belongs to; PyYAML itself drops them.

What stands between two tokens of the scanner is white space and comments, so no text, key or template can be taken for one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline.config.document import Keys, Node

_QUOTED = "\"'|>"
_BLOCK = re.compile(r"[|>][^\n#]*\s(#[^\n]*)")


@dataclass(frozen=True, slots=True)
class Comment:
    """One comment with its mark: `line` and `column` count from 1; `alone` is one that has the line to itself."""

    line: int
    column: int
    text: str
    alone: bool


def comments_of(text: str) -> list[Comment]:
    """Every comment of a text that is YAML, in its order."""
    lines = [0, *(match.end() for match in re.finditer(r"\n", text))]
    found = []
    for start, end in _gaps(text):
        for match in re.finditer(r"#[^\r\n]*", text[start:end]):
            place = start + match.start()
            line = bisect_right(lines, place)
            before = text[lines[line - 1] : place]
            found.append(Comment(line, len(before) + 1, match[0].rstrip(), not before.strip()))
    return found


def _gaps(text: str) -> Iterator[tuple[int, int]]:
    """From where to where there is no token."""
    last = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        start, end = token.start_mark.index, token.end_mark.index
        if start > last:
            yield last, start
        # Behind the sign of a text in many lines a comment may stand, which the scanner takes as part of the text's token.
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">") and (match := _BLOCK.match(text, start, end)):
            yield match.start(1), match.end(1)
        last = max(last, end)
    yield last, len(text)


def owners(root: Node, comments: list[Comment]) -> Iterator[tuple[Comment, Keys | None]]:
    """Each comment with the key that it stands beside or above; None at the head of the file, `()` below the last key."""
    places: dict[tuple[int, int], Keys] = {}
    for keys, node in root.walk():
        if keys:
            places.setdefault((node.key.line, node.key.column), keys)
    order = sorted(places)
    for comment in comments:
        behind = bisect_right(order, (comment.line, comment.column))
        if not comment.alone:
            line = order[behind - 1][0] if behind else 0
            yield comment, next((places[place] for place in order if place[0] == line), None)
        elif not behind:
            yield comment, None
        # What is indented further than the key below it belongs to what stands above: an item that was commented out.
        elif behind < len(order) and order[behind][1] >= comment.column:
            yield comment, places[order[behind]]
        else:
            yield comment, places[order[behind - 1]] if comment.column > 1 else ()


def spelled(root: Node, text: str) -> None:
    """Read words as other tools do, by YAML 1.1: plain `yes` and `off` are true and false, `1_000` is a number; so is `"true"`."""
    lines = text.split("\n")
    for _, node in root.walk():
        if not isinstance(node.value, str) or "\n" in node.value:
            continue
        if node.value.lower() in ("true", "false"):
            node.value = node.value.lower() == "true"
        elif node.value and lines[node.at.line - 1][node.at.column - 1 :][:1] not in _QUOTED:
            with suppress(yaml.YAMLError):
                value = yaml.safe_load(node.value)
                node.value = value if isinstance(value, (bool, int, float)) else node.value

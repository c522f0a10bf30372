"""Text from outside, as it may be shown: what a terminal, a tracker or a card would obey is written out.

A model's answers, rows of data, messages of other libraries and answers of servers hold anything. The core passes all of it through
here on its way out (`run.mask` does), and so do plugins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters but tab and line ends: an escape sequence acts on the terminal
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns the direction of writing, or ends a line
    "\ufff9-\ufffb\ufeff\ud800-\udfff\U000e0000-\U000e007f]"  # what is invisible, or half a character, which nothing can write
    "|\r(?!\n)"  # alone it goes back to the start of the line, over what stands there
)
_LINE_ENDS = re.compile(r"[\r\n\t]")
_CODES = {"\r": "\\r", "\n": "\\n", "\t": "\\t"}


def showable(text: str) -> str:
    """The text with everything that a terminal would obey, and lone surrogates, written out as Python does: `\\x1b`."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_escaped, text)


def one_line(text: str) -> str:
    """The same for a name or a heading: line ends and tabs are written out too."""
    return _LINE_ENDS.sub(_escaped, showable(text))


def clipped(text: str, most: int = 200) -> str:
    """The same, cut to so many characters."""
    text = one_line(text if len(text) <= most else f"{text[:most]} ...")
    return text if len(text) <= 2 * most else f"{text[: 2 * most]} ..."


def some(names: Iterable[Any], most: int = 12) -> str:
    """The first of many names, for a message that is to fit a screen."""
    listed = [clipped(str(name), 40) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more


def json_line(values: Mapping[str, Any]) -> str:
    """A JSON object whose letters stay letters, on what every reader takes for one line. Raises ValueError for NaN and infinity."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, default=str)
    return _OBEYED.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return _CODES.get(character) or character.encode("unicode_escape").decode("ascii")

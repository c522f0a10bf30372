"""The values of a row: made plain, measured, and cut when they are too long."""

from __future__ import annotations

from math import inf
from sys import getsizeof
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline.events import Cell

PLAIN = frozenset({str, int, float, bool, type(None)})
EMPTY_TEXT = 80
"""Bytes of a text object beside its characters, generously."""


def plain(value: Any) -> Cell:
    """Return a value as a table can hold it: numbers of numpy and torch as Python's, anything else as its text."""
    if type(value) in PLAIN:
        return value  # type: ignore[no-any-return]
    try:
        value = value.item()  # an array of one element
    except (AttributeError, ValueError, RuntimeError, TypeError):
        value = str(value)
    return value if type(value) in PLAIN else str(value)


def readable(value: Cell) -> Cell:
    """Return a text as UTF-8 can hold it: half of a surrogate pair, which no file can store, becomes `\\udXXX`."""
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace").decode()
    return value


def number(value: object) -> float | None:
    """Return a score as a number, or None when it is none."""
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:
        return inf if value > 0 else -inf  # type: ignore[operator]


def weight(values: tuple[Cell, ...]) -> int:
    """Return the bytes of memory that a row's values take; reads the sizes of objects, never their content."""
    return getsizeof(values) + sum(map(getsizeof, values))


def fit(values: tuple[Cell, ...], limit: int) -> tuple[Cell, ...] | None:
    """Return a row with its longest texts cut in the middle so that it takes at most `limit` bytes, or None if that can't be.

    Short texts stay whole: what they leave of their share goes to the long ones.
    """
    texts = sorted((getsizeof(value), index) for index, value in enumerate(values) if isinstance(value, str))
    budget = limit - weight(values) + sum(size for size, _ in texts)
    shortened = list(values)
    for position, (size, index) in enumerate(texts):
        share = budget // (len(texts) - position)
        text = values[index]
        if size > share and isinstance(text, str):
            shortened[index] = cut(text, share)
        budget -= getsizeof(shortened[index])
    result = tuple(shortened)
    return result if weight(result) <= limit else None


def cut(text: str, size: int) -> str:
    """Return a text without its middle, so that it takes about `size` bytes; a mark says how much is missing."""
    width = max(1, round(getsizeof(text) / max(1, len(text))))
    marked = len(mark(len(text)))
    keep = max(0, (size - EMPTY_TEXT) // width - marked)
    return shorten(text, keep)


def shorten(text: str, keep: int, between: str | None = None) -> str:
    """Return the first and the last characters of a text, `keep` together, with `between` or a mark of the number missing."""
    if len(text) <= keep:
        return text
    tail = keep // 2
    missing = mark(len(text) - keep) if between is None else between
    return f"{text[: keep - tail]}{missing}{text[len(text) - tail :]}"


def mark(characters: int) -> str:
    """What stands where a text was cut; ASCII, as a wider character would widen the whole text in memory."""
    return f" ...[{characters} characters cut]... "

"""Which rows the command shows: `--where`, `--contains`, `--step` and the order, each checked before a row is read."""

from __future__ import annotations

import heapq
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import isnan
from typing import TYPE_CHECKING

from longline.errors import ConfigError
from longline_completions.names import known

if TYPE_CHECKING:
    from longline.events import Cell
    from longline_completions.archive import Kind

RowTest = Callable[[Mapping[str, "Cell"]], bool]

_WHERE = re.compile(r'\s*(?:"(?P<quoted>[^"]+)"|(?P<name>[^"=<>!]+?))\s*(?P<sign><=|>=|==|!=|=|<|>)\s*(?P<value>.*?)\s*', re.S)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def where(text: str, columns: Mapping[str, Kind]) -> RowTest:
    """Return the test that a filter means: `margin < 0`, `label = false`, `"my reward" >= 0.5`, `reward = nan`, `score != null`.

    A value that is missing is equal to `null` alone; what is not a number is equal to `nan` alone and never less or more.

    Raises:
        ConfigError: it cannot be read, names an unknown column, or compares a column with what it doesn't hold.
    """
    match = _WHERE.fullmatch(text)
    if match is None or not match["value"]:
        hint = "write COLUMN SIGN VALUE, as in 'margin < 0' or 'label = false'; signs are < <= > >= = !="
        raise ConfigError(f"--where {text!r} is no filter", hint=hint)
    name = known(match["quoted"] or match["name"], columns, "--where")
    sign, value = match["sign"].replace("==", "="), match["value"]
    if sign == "!=":
        same = _test(name, "=", value, columns[name], text)
        return lambda row: not same(row)
    return _test(name, sign, value, columns[name], text)


def _test(name: str, sign: str, value: str, kind: Kind, text: str) -> RowTest:
    if value.lower() in ("null", "none") and sign == "=":
        return lambda row: row.get(name) is None
    if kind == "number":
        return _number_test(name, sign, value, text)
    if sign != "=":
        holds = "text" if kind == "text" else "true and false"
        raise ConfigError(
            f"--where {text!r}: {name} holds {holds}", hint="compare it with = or !=; --contains finds parts of a text"
        )
    if kind == "flag":
        if value.lower() not in _FLAGS:
            raise ConfigError(f"--where {text!r}: {name} holds true and false, not {value!r}")
        flag = _FLAGS[value.lower()]
        return lambda row: row.get(name) is flag
    wanted = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    return lambda row: row.get(name) is not None and str(row[name]) == wanted


def _number_test(name: str, sign: str, value: str, text: str) -> RowTest:
    try:
        limit = float(value)
    except ValueError:
        raise ConfigError(f"--where {text!r}: {name} holds numbers, and {value!r} is none") from None
    if isnan(limit):
        if sign != "=":
            raise ConfigError(f"--where {text!r}: nothing is less or more than nan", hint="use = or !=")
        return lambda row: isinstance(row.get(name), float) and isnan(row[name])  # type: ignore[arg-type]
    compare = _COMPARE[sign]

    def test(row: Mapping[str, Cell]) -> bool:
        cell = row.get(name)
        return isinstance(cell, (int, float)) and compare(cell, limit)

    return test


def contains(text: str) -> RowTest:
    """Return the test whether some text of a row holds `text`, whatever its case."""
    wanted = text.casefold()
    return lambda row: any(isinstance(cell, str) and wanted in cell.casefold() for cell in row.values())


def steps(text: str | None) -> tuple[int | None, int | None]:
    """Return the first and the last step of `100`, `100-200`, `100-` or `-200`.

    Raises:
        ConfigError: it is none of these.
    """
    if text is None:
        return None, None
    match = re.fullmatch(r"\s*(\d*)\s*(-?)\s*(\d*)\s*", text)
    if match is None or not (match[1] or match[3]):
        raise ConfigError(f"--step {text!r} is no step", hint="write 100, 100-200, 100- or -200")
    first = int(match[1]) if match[1] else None
    last = int(match[3]) if match[3] else (None if match[2] else first)
    if first is not None and last is not None and first > last:
        raise ConfigError(f"--step {text!r}: {first} comes after {last}")
    return first, last


@dataclass(frozen=True, slots=True)
class Order:
    """By which column rows are sorted, and whether the lowest comes first. What is missing or no number comes last."""

    column: str
    ascending: bool

    def take(self, rows: Iterable[dict[str, Cell]], limit: int) -> list[dict[str, Cell]]:
        """Return the first `limit` rows of this order, or all if it is 0; holds no more than these in memory."""
        if not limit:
            return sorted(rows, key=self._key, reverse=not self.ascending)
        pick = heapq.nsmallest if self.ascending else heapq.nlargest
        return pick(limit, rows, key=self._key)

    def _key(self, row: Mapping[str, Cell]) -> tuple[int, float, str]:
        cell = row.get(self.column)
        if cell is None or (isinstance(cell, float) and isnan(cell)):
            return (2, 0.0, "") if self.ascending else (-1, 0.0, "")
        return (1, 0.0, cell) if isinstance(cell, str) else (0, cell, "")


def newest(rows: Iterable[dict[str, Cell]], limit: int) -> list[dict[str, Cell]]:
    """Return the first `limit` of rows that come newest first, or all if it is 0, turned round: the newest is the last."""
    return list(islice(rows, limit or None))[::-1]

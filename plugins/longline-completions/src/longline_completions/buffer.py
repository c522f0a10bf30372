"""The rows that the next table will show: never more than a number of them, never more than a number of bytes.

All ways of sampling are one: every row gets a rank, and the rows of the lowest rank leave first. A heap keeps that to a few
microseconds a row, and a row that would leave at once is not even looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from itertools import count
from math import inf, isnan
from random import Random
from sys import getsizeof
from typing import TYPE_CHECKING, Any, NamedTuple

from longline_completions.cells import fit, number, plain, weight

if TYPE_CHECKING:
    from longline.events import Cell
    from longline_completions.config import Sample

ENTRY_BYTES = 256
"""What a row takes beside its values: the entry with its own numbers, and its place in the heap."""


class Row(NamedTuple):
    """One kept row. `rank` and `order` say which leave first: the lowest, and among equals the oldest."""

    rank: float
    order: int
    size: int
    step: int
    names: tuple[str, ...]
    values: tuple[Cell, ...]


class Buffer:
    """Rows of one table in the making.

    `columns` keeps only those values. `seen` counts the rows that came, `cut` those whose texts were shortened because they
    were larger than `max_bytes`, and `lost` those that could not be made to fit; `size` is the bytes of memory in use.
    """

    def __init__(
        self, max_rows: int, max_bytes: int, sample: Sample = "last", columns: tuple[str, ...] | None = None, seed: int = 0
    ) -> None:
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.sample, self.columns = sample, columns
        self.seen = self.cut = self.lost = self.size = 0
        self._rows: list[Row] = []
        self._order = count()
        self._random = Random(seed)  # noqa: S311 - a sample, no secret
        self._names: tuple[str, ...] = columns or ()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, rows: Iterable[Mapping[str, Any]], score: str) -> None:
        """Take in the rows of a step."""
        for row in rows:
            self.seen += 1
            order = next(self._order)
            rank = self._rank(order, row.get(score))
            if len(self._rows) == self.max_rows and rank < self._rows[0].rank:
                continue
            self._keep(rank, order, step, row)

    def _rank(self, order: int, score: Any) -> float:
        if self.sample == "last":
            return order
        if self.sample == "first":
            return -order
        if self.sample == "random":
            return self._random.random()
        value = number(plain(score))
        if value is None:
            return -inf
        if isnan(value):  # a run that went wrong shows there first
            return inf if self.sample == "worst" else -inf
        return -value if self.sample == "worst" else value

    def _keep(self, rank: float, order: int, step: int, row: Mapping[str, Any]) -> None:
        names, extra = self._named(row)
        values = tuple(map(plain, map(row.get, names)))
        extra += ENTRY_BYTES
        size = extra + weight(values)
        if size > self.max_bytes:
            fitting = fit(values, self.max_bytes - extra)
            if fitting is None:
                self.lost += 1
                return
            self.cut += 1
            values, size = fitting, extra + weight(fitting)
        heappush(self._rows, Row(rank, order, size, step, names, values))
        self.size += size
        while len(self._rows) > self.max_rows or self.size > self.max_bytes:
            self.size -= heappop(self._rows).size

    def _named(self, row: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
        """The names of a row's columns, shared with the row before if they are the same, and the bytes they take if not."""
        if self.columns is not None:
            return self.columns, 0
        names = tuple(row)
        if names == self._names:
            return self._names, 0
        self._names = names
        return names, getsizeof(names) + sum(map(getsizeof, names))

    def rows(self) -> list[Row]:
        """Return the rows in the order in which they came; by `worst` and `best` those of the highest rank first."""
        if self.sample in ("worst", "best"):
            return sorted(self._rows, key=lambda row: (-row.rank, row.order))
        return sorted(self._rows, key=lambda row: row.order)

    def clear(self) -> None:
        """Forget the rows; the counts start anew too."""
        self._rows = []
        self.seen = self.cut = self.lost = self.size = 0

"""Packs as full as can be: the longest sample first, and what fills the rest of its pack exactly if anything does.

All of it works on how many samples there are of each length: what fits together once is repeated as often as there are samples
for it, so a million rows cost hardly more than ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from longline.data.values import Longs

Pattern = tuple[dict[int, int], int]
"""How many samples of each length are in a pack, and how many packs are like it."""


@dataclass(frozen=True, slots=True)
class Packs:
    """Groups of numbers: pack i is members[edges[i]:edges[i + 1]]."""

    members: Longs
    edges: Longs

    @classmethod
    def single(cls, members: Longs) -> Packs:
        """Every number alone."""
        return cls(members, np.arange(len(members) + 1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def take(self, order: Longs) -> Packs:
        """The packs numbered by `order`, in that order."""
        sizes = np.diff(self.edges)[order]
        return Packs(self.members[ranges(self.edges[:-1][order], sizes)], edges_of(sizes))


def edges_of(sizes: NDArray[np.integer]) -> Longs:
    """Where parts of these sizes begin and end when they stand end to end: one number more than parts."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])


def ranges(starts: Longs, sizes: NDArray[np.integer]) -> Longs:
    """The numbers from each start on, as many as its size says, all in one array."""
    edges = edges_of(sizes)
    return np.arange(edges[-1], dtype=np.int64) + np.repeat(starts - edges[:-1], sizes)


def pack(lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> Packs:
    """Pack samples of `lengths` tokens into few packs of at most `capacity` tokens.

    The members of a pack are positions into `lengths`, rising. Equal input gives equal packs; of samples that are equally long
    those in front come into earlier packs. Raises ValueError for a length of zero or more than `capacity`. Never more packs than
    first-fit decreasing needs. Linear in the number of samples but for a sort; at most as many kinds of packs are looked for as
    there are different lengths, each in a time proportional to `capacity`.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes):
        return Packs.single(sizes)
    if sizes.min() < 1 or sizes.max() > capacity:
        raise ValueError(f"lengths must be between 1 and {capacity}")
    counts = np.bincount(sizes, minlength=capacity + 1)
    patterns = _patterns(counts, capacity, exact=True)
    if _packs(patterns) * capacity - sizes.sum() >= capacity:
        # Not the fewest that there can be: without exact fits this is first-fit decreasing, which now and then needs fewer.
        patterns = min(patterns, _patterns(counts, capacity, exact=False), key=_packs)
    return _filled(patterns, sizes, counts)


def _packs(patterns: Sequence[Pattern]) -> int:
    return sum(repeats for _, repeats in patterns)


def _patterns(counts: Longs, capacity: int, *, exact: bool) -> list[Pattern]:
    """Which lengths go together until none is left."""
    stock = _Stock(counts, capacity)
    patterns: list[Pattern] = []
    while longest := stock.longest(capacity):
        before = stock.there, stock.mirrored
        chosen = _choose(stock, longest, capacity, exact=exact)
        repeats = min(stock.counts[length] // several + 1 for length, several in chosen.items())
        stock.there, stock.mirrored = before
        for length, several in chosen.items():
            stock.counts[length] += several
            stock.take(length, several * repeats)
        patterns.append((chosen, repeats))
    return patterns


def _choose(stock: _Stock, longest: int, capacity: int, *, exact: bool) -> dict[int, int]:
    """Take the samples of one pack, in which `longest` is the first: how many of each length.

    What is left of the pack is filled by one or two samples that fit it exactly, if `exact` and if there are such, else by the
    longest that fits, and so on.
    """
    chosen: dict[int, int] = {}
    gap, length = capacity, longest
    while length:
        # The longest is the longest again while there are more of it and it fits, and no pair fills what is over two of it.
        several = max(-(-gap // length) - 2, 1) if exact else gap // length
        several = min(several, stock.counts[length])
        stock.take(length, several)
        chosen[length] = chosen.get(length, 0) + several
        gap -= several * length
        length = stock.longest(gap)
        if exact and length < gap <= 2 * length and (first := stock.pair(gap)):
            length = first
    return chosen


class _Stock:
    """How many samples of each length are left; `there` has a bit for each length of which there are any.

    A question is one operation on all bits at once: with an array of 32k lengths to look through for each sample of a pack, a
    million rows took 20 s, and with bits they take half a one. `mirrored` has the bit of each length at `capacity` less it.
    """

    def __init__(self, counts: Longs, capacity: int) -> None:
        self.counts: list[int] = counts.tolist()
        self.capacity = capacity
        self.there, self.mirrored = (
            int.from_bytes(np.packbits(some, bitorder="little").tobytes(), "little") for some in (counts > 0, counts[::-1] > 0)
        )

    def take(self, length: int, several: int) -> None:
        """Take so many samples of a length."""
        self.counts[length] -= several
        if not self.counts[length]:
            self.there ^= 1 << length
            self.mirrored ^= 1 << self.capacity - length

    def longest(self, gap: int) -> int:
        """The longest that fits, or 0."""
        return (self.there & (2 << gap) - 1 | 1).bit_length() - 1

    def pair(self, gap: int) -> int:
        """The longer one of two that fill the gap exactly, as long as can be, or 0."""
        first = (self.there & self.mirrored >> self.capacity - gap).bit_length() - 1
        return first if 2 * first > gap or (2 * first == gap and self.counts[first] > 1) else 0


def _filled(patterns: Sequence[Pattern], sizes: Longs, counts: Longs) -> Packs:
    """Real samples in place of lengths."""
    order = np.argsort(sizes, kind="stable")
    following = (np.cumsum(counts) - counts).tolist()
    members, widths = [], []
    for lengths, repeats in patterns:
        columns = []
        for length, several in lengths.items():
            start = following[length]
            following[length] += several * repeats
            columns.append(order[start : following[length]].reshape(repeats, several))
        members.append(np.sort(np.concatenate(columns, axis=1), axis=1).ravel())
        widths.append(np.full(repeats, sum(lengths.values()), dtype=np.int64))
    return Packs(np.concatenate(members), edges_of(np.concatenate(widths)))


def efficiency(lengths: Sequence[int] | NDArray[np.integer], packs: int, capacity: int) -> float:
    """The share of the packs' room that tokens fill, 0 to 1."""
    return float(np.sum(lengths)) / (packs * capacity) if packs else 0.0

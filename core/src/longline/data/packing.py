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

Pattern = tuple[list[int], int]
"""The lengths in a pack, and how many packs are like it."""


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
    # Without exact fits this is first-fit decreasing, which now and then needs fewer packs.
    found = (_patterns(counts, capacity, exact=exact) for exact in (True, False))
    return _filled(min(found, key=lambda patterns: sum(repeats for _, repeats in patterns)), sizes, counts)


def _patterns(counts: Longs, capacity: int, *, exact: bool) -> list[Pattern]:
    """Which lengths go together until none is left."""
    left = counts.copy()
    patterns: list[Pattern] = []
    longest = capacity
    while True:
        there = np.flatnonzero(left[: longest + 1])
        if not len(there):
            return patterns
        longest = int(there[-1])
        chosen = _choose(left, longest, capacity, exact=exact)
        kinds, several = np.unique(chosen, return_counts=True)
        repeats = int((left[kinds] // several).min())
        left[kinds] -= several * repeats
        patterns.append((chosen, repeats))


def _choose(left: Longs, longest: int, capacity: int, *, exact: bool) -> list[int]:
    """The lengths of one pack, in which `longest` is the first; `left` is as before when it returns.

    What is left of the pack is filled by one or two samples that fit it exactly, if `exact` and if there are such, else by the
    longest that fits, and so on.
    """
    chosen = [longest]
    left[longest] -= 1
    gap = capacity - longest
    while gap and len(fitting := np.flatnonzero(left[: gap + 1])):
        more = (_exactly(left, fitting, gap) if exact else None) or [int(fitting[-1])]
        for length in more:
            left[length] -= 1
        chosen += more
        gap -= sum(more)
    np.add.at(left, chosen, 1)
    return chosen


def _exactly(left: Longs, fitting: Longs, gap: int) -> list[int] | None:
    """One length that fills the gap, or two, the first as long as can be."""
    if fitting[-1] == gap:
        return [gap]
    others = gap - fitting
    together = np.flatnonzero(left[others] > (others == fitting))
    if not len(together):
        return None
    first = int(fitting[together[-1]])
    return [first, gap - first]


def _filled(patterns: Sequence[Pattern], sizes: Longs, counts: Longs) -> Packs:
    """Real samples in place of lengths."""
    order = np.argsort(sizes, kind="stable")
    following = np.cumsum(counts) - counts
    members, widths = [], []
    for lengths, repeats in patterns:
        columns = []
        for length, several in zip(*np.unique(lengths, return_counts=True), strict=True):
            start = following[length]
            following[length] += several * repeats
            columns.append(order[start : following[length]].reshape(repeats, several))
        members.append(np.sort(np.concatenate(columns, axis=1), axis=1).ravel())
        widths.append(np.full(repeats, len(lengths), dtype=np.int64))
    return Packs(np.concatenate(members), edges_of(np.concatenate(widths)))


def efficiency(lengths: Sequence[int] | NDArray[np.integer], packs: int, capacity: int) -> float:
    """The share of the packs' room that tokens fill, 0 to 1."""
    return float(np.sum(lengths)) / (packs * capacity) if packs else 0.0

"""Best-fit decreasing: long samples first, each into the fullest pack that still has room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class _Spaces:
    """Which amounts of free space exist: one Python integer as a bit set, so that best fit is two bit operations."""

    def __init__(self) -> None:
        self.bits = 0

    def smallest_at_least(self, size: int) -> int | None:
        """The smallest free space that holds `size`, or None."""
        fitting = self.bits >> size
        return size + (fitting & -fitting).bit_length() - 1 if fitting else None


def pack(lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> list[list[int]]:
    """Pack samples of `lengths` tokens into as few packs of at most `capacity` tokens as best-fit decreasing finds.

    Returns one list of positions into `lengths` per pack; within a pack the positions rise. Equal input gives equal packs.
    Raises ValueError for a length of zero or more than `capacity`. O(n log n) for the sort, then a look-up in a bit set of
    `capacity` bits for each sample.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and (sizes.min() < 1 or sizes.max() > capacity):
        raise ValueError(f"lengths must be between 1 and {capacity}")
    order = np.argsort(-sizes, kind="stable")
    packs: list[list[int]] = []
    open_packs: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = _Spaces()
    for position, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        space = spaces.smallest_at_least(size)
        if space is None:
            number, space = len(packs), capacity
            packs.append([])
        else:
            number = open_packs[space].pop()
            if not open_packs[space]:
                spaces.bits ^= 1 << space
        packs[number].append(position)
        left = space - size
        if left:
            if not open_packs[left]:
                spaces.bits |= 1 << left
            open_packs[left].append(number)
    for members in packs:
        members.sort()
    return packs


def efficiency(lengths: Sequence[int] | NDArray[np.integer], packs: int, capacity: int) -> float:
    """The share of the packs' room that tokens fill, 0 to 1."""
    return float(np.sum(lengths)) / (packs * capacity) if packs else 0.0

"""Which token starts at a character of a long text, without an account of all its characters, which takes 160 times the text.

The text is tokenised in windows that overlap. Where two of them have the same tokens for a while, the one goes over into the other,
and so the tokens are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from longline.data.values import Ints, Longs

WINDOW = 1 << 18
"""How many characters behind the start of a window the next one starts."""
OVERLAP = 1 << 12
"""How many characters two windows share; they must agree on the middle half of them."""
AT_ONCE = 4
Encode = Callable[[list[str]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens: ids, and of each token where in the text it starts and ends."""

    ids: Ints
    starts: Longs
    ends: Longs

    def cut(self, first: int, last: int | None = None) -> _Part:
        return _Part(self.ids[first:last], self.starts[first:last], self.ends[first:last])


def tokenised(text: str, wanted: Sequence[int], encode: Encode) -> tuple[Ints, dict[int, tuple[int, bool]]] | None:
    """The ids of a text, and for each place that is wanted the first token at it or behind, and whether one before ends behind it.

    None where windows don't agree, as in one letter repeated for pages.
    """
    ids: list[Ints] = []
    found: dict[int, tuple[int, bool]] = {}
    left, count = sorted(set(wanted)), 0

    def add(part: _Part, end: int) -> None:
        nonlocal left, count
        inside = [place for place in left if place < end]
        left = left[len(inside) :]
        for place, first in zip(inside, np.searchsorted(part.starts, inside).tolist(), strict=True):
            found[place] = count + first, first > 0 and bool(part.ends[first - 1] > place)
        ids.append(part.ids.copy())
        count += len(part.ids)

    before: _Part | None = None
    for start, window in _windows(text, encode):
        part = window
        if before is not None:
            seam = _seam(before, window, start)
            if seam is None:
                return None
            add(before.cut(0, seam[0]), int(window.starts[seam[1]]))
            part = window.cut(seam[1])
        before = part
    if before is not None:
        add(before, len(text))
    found.update(dict.fromkeys(left, (count, False)))
    return np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32), found


def _windows(text: str, encode: Encode) -> Iterator[tuple[int, _Part]]:
    """Windows with the places where they start; each is longer than what it shares with the next."""
    starts = list(range(0, max(len(text) - OVERLAP, 1), WINDOW))
    for some in (starts[at : at + AT_ONCE] for at in range(0, len(starts), AT_ONCE)):
        for start, encoding in zip(some, encode([text[start : start + WINDOW + OVERLAP] for start in some]), strict=True):
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start
            yield start, _Part(np.array(encoding.ids, dtype=np.int32), offsets[:, 0], offsets[:, 1])


def _seam(before: _Part, window: _Part, start: int) -> tuple[int, int] | None:
    """The numbers of one token in both, with which the window that begins at `start` goes on; no token before ends behind it."""
    middle = [start + OVERLAP // 4, start + 3 * OVERLAP // 4]
    (first, last), (begin, end) = (np.searchsorted(part.starts, middle).tolist() for part in (before, window))
    mine, others = before.cut(first, last), window.cut(begin, end)
    if not (np.array_equal(mine.ids, others.ids) and np.array_equal(mine.starts, others.starts)):
        return None
    clean = np.flatnonzero(mine.ends[:-1] <= mine.starts[1:])
    return (first + 1 + int(clean[0]), begin + 1 + int(clean[0])) if len(clean) else None

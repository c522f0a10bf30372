"""Which samples one epoch sees and in what order: the evaluation share, weights, shuffling. All fixed by the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from longline.data.packing import Packs
    from longline.data.values import Longs

# A stream of random numbers for each use, so that one more source or another weight changes no other choice.
_EVAL, _WEIGHT, _ORDER, _PACKS = 1, 2, 3, 4


def split_off(rows: Longs, sources: NDArray[np.int32], fraction: float, seed: int) -> tuple[Longs, Longs]:
    """Positions for training and for evaluation, both rising: `fraction` of each source's rows, at least one in all.

    A row is in one of them only, whatever its weight, with all samples that it was split into; `rows` numbers them.
    """
    sources = sources[np.flatnonzero(np.diff(rows, prepend=-1))]
    chosen = np.zeros(len(sources), dtype=bool)
    for source in np.unique(sources):
        own = np.flatnonzero(sources == source)
        count = round(fraction * len(own))
        chosen[np.random.default_rng([seed, _EVAL, int(source)]).permutation(own)[:count]] = True
    if len(sources) > 1 and not chosen.any():
        chosen[np.random.default_rng([seed, _EVAL]).integers(len(sources))] = True
    chosen = chosen[rows]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def weighted(positions: Longs, sources: NDArray[np.int32], weights: Sequence[float], seed: int) -> Longs:
    """`positions` with each sample as often as its source's weight says; a fraction of a weight is a fixed random choice."""
    parts = []
    for source, weight in enumerate(weights):
        own = positions[sources[positions] == source]
        # A weight is a count and no probability: an epoch has a known length, each row of a source with weight 1 is seen once
        # in it, and a resumed run sees the same rows.
        whole = int(weight)
        parts.extend([own] * whole)
        count = round((weight - whole) * len(own))
        if not whole and len(own):
            count = max(count, 1)
        part = np.random.default_rng([seed, _WEIGHT, source]).permutation(own)[:count]
        parts.append(np.sort(part))
    return np.concatenate(parts) if parts else positions


def shuffled(positions: Longs, seed: int) -> Longs:
    """A random order."""
    return np.random.default_rng([seed, _ORDER]).permutation(positions)


def shuffled_packs(packs: Packs, seed: int) -> Packs:
    """The packs in a random order: packing leaves long samples first."""
    return packs.take(np.random.default_rng([seed, _PACKS]).permutation(len(packs)))


def sorted_packs(packs: Packs) -> Packs:
    """The packs in the order of their first samples."""
    return packs.take(np.argsort(packs.members[packs.edges[:-1]]))

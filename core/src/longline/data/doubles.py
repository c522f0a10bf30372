"""Rows that are trained on and evaluated on as well: an evaluation then says less about what is new to the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from longline.data.sources import Source
    from longline.data.store.samples import Samples
    from longline.data.values import Longs

Side = tuple["Samples", "Longs", Sequence["Source"]]
"""Samples, which of them, and where they come from."""


def warning(train: Side, evaluation: Side) -> str | None:
    """What to say of rows whose tokens are on both sides; None where there are none."""
    samples, chosen, opened = evaluation
    ours, theirs = _some(samples, chosen), _some(train[0], train[1])
    near = train[1][np.isin(theirs, ours)]
    seen = {_whole(train[0], number) for number in near}
    double = [number for number in chosen[np.isin(ours, theirs)] if _whole(samples, number) in seen]
    if not double:
        return None
    count, rows = (len(np.unique(samples.rows[which])) for which in (double, chosen))
    source, first = opened[samples.sources[double[0]]], double[0]
    where = f"{source.files[samples.files[first]]}:{samples.lines[first]}"
    return f"{count} of {rows} rows to evaluate on are trained on, too (the first: {where}): they say nothing about new ones"


def _some(samples: Samples, chosen: Longs) -> NDArray[np.uint64]:
    """A number for each sample, made of its length and a few of its tokens: a text is read as a whole only if it may be double."""
    starts, lengths = samples.starts[chosen], samples.lengths[chosen]
    mixed = lengths.astype(np.uint64)
    for part in range(5):
        tokens = samples.ids[starts + (lengths - 1) * part // 4]
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + tokens.astype(np.uint64)
    return mixed


def _whole(samples: Samples, number: int) -> int:
    start = samples.starts[number]
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(samples.ids[start : start + samples.lengths[number]]).tobytes())

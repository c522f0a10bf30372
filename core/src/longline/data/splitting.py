"""Long documents in pieces, each token learnt once; and documents end to end, cut into full blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from longline.data.packing import Packs, edges_of
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline.data.store.samples import Samples
    from longline.data.values import Longs, Tokens


def pieces(tokens: Tokens, size: int, overlap: int) -> Iterator[Tokens]:
    """A document in pieces of at most `size` tokens, each but the first begun with the last `overlap` of the one before.

    What a piece only repeats is context and is not learnt again; without an overlap its first token is not learnt, which nothing
    predicts. End tokens and the like are counted with the first piece. Values aligned to tokens are cut with them.
    """
    whole = len(tokens.ids)
    fresh, end = 0, min(size, whole)
    while True:
        # A last piece of one token would teach nothing, and that is the token that ends the document.
        if not overlap and whole - end == 1 and end - fresh > 2:
            end -= 1
        start = max(fresh - overlap, 0)
        labels = tokens.labels[start:end].copy()
        labels[: max(fresh - start, 1)] = IGNORED
        columns = {name: values[start:end] for name, values in tokens.columns.items()}
        yield replace(tokens, ids=tokens.ids[start:end], labels=labels, columns=columns)
        if end == whole:
            return
        fresh, end = end, min(end + size - overlap, whole)


def joined(samples: Samples, order: Longs, size: int) -> tuple[Samples, Longs, Packs]:
    """The documents of `order` end to end, cut into blocks of `size` tokens; the last one may be shorter.

    Gives the parts of documents, which share the tokens of `samples`; for each part the number of its document; and the blocks,
    whose members are parts.
    """
    ends = edges_of(samples.lengths[order])
    blocks = np.append(np.arange(0, ends[-1], size, dtype=np.int64), ends[-1])
    if len(blocks) > 2 and blocks[-1] - blocks[-2] == 1 < size - 1:
        blocks[-2] -= 1
    cuts = np.union1d(ends, blocks)
    place = np.searchsorted(ends, cuts[:-1], side="right") - 1
    documents = order[place]
    starts = samples.starts[documents] + cuts[:-1] - ends[place]
    parts = replace(samples, starts=starts, lengths=np.diff(cuts))
    return parts, documents, Packs(np.arange(len(place), dtype=np.int64), np.searchsorted(cuts, blocks))

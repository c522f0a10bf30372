"""The order of rows in an epoch, where batches shall be of like lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POOL = 50
"""How many batches are drawn at once and then sorted: more pad less, and mix rows less."""


class LengthGroupedSampler(Sampler[int]):
    """Every row once an epoch, in batches of like lengths that come in random order; the one with the longest row comes first.

    transformers has a sampler of this name. It goes through each pool from long to short, so that lengths rise and fall all
    through an epoch, and it draws from torch's global generator, so that a resumed run sees other batches. Here the order
    depends on `seed` and the epoch alone, and short batches are as likely at the beginning as at the end.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        """Take the tokens of every row, and how many rows are computed at once, over all ranks."""
        self.lengths = np.asarray(lengths)
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch, by the data loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Give the rows' numbers in the order of this epoch."""
        chosen = np.random.default_rng((self.seed, self.epoch))
        order = chosen.permutation(len(self.lengths))
        size = POOL * self.batch
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools] or [order])
        # What fills no batch comes last, so that all others are whole.
        whole = len(order) // self.batch
        batches = order[: whole * self.batch].reshape(whole, self.batch)[chosen.permutation(whole)]
        if whole:
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]  # what does not fit into memory shall fail at once
        yield from batches.reshape(-1).tolist()
        yield from order[whole * self.batch :].tolist()

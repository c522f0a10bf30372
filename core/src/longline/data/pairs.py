"""Two tokenised answers as one row, behind the same prompt tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longline.data.samples import IGNORED
from longline.data.tokenize import Tokens


@dataclass(slots=True)
class PairTokens(Tokens):
    """The chosen answer with its prompt, of `head` tokens, and behind it the rejected one with the same prompt.

    `complete`: something is learnt of both.
    """

    head: int = 0
    complete: bool = True

    @property
    def longest(self) -> int:
        """Tokens of the longer one."""
        return max(self.head, len(self.ids) - self.head)

    @property
    def identical(self) -> bool:
        """Whether nothing tells the two apart."""
        return bool(np.array_equal(self.ids[: self.head], self.ids[self.head :]))


def paired(chosen: Tokens, rejected: Tokens) -> PairTokens:
    """One row of two answers."""
    complete = all(bool((tokens.labels != IGNORED).any()) for tokens in (chosen, rejected))
    if complete:
        _share_prompt(chosen, rejected)
    return PairTokens(
        np.concatenate([chosen.ids, rejected.ids]),
        np.concatenate([chosen.labels, rejected.labels]),
        chosen.terminators + rejected.terminators,
        chosen.truncated or rejected.truncated,
        chosen.straddles or rejected.straddles,
        len(chosen.ids),
        complete,
    )


def _share_prompt(chosen: Tokens, rejected: Tokens) -> None:
    """Let both answers begin behind the same tokens.

    Those at the prompt's end may depend on what follows it; from where the two part, all is learnt in both. The first token of
    a text never is: nothing predicts it.
    """
    learnt = [int(np.argmax(tokens.labels != IGNORED)) for tokens in (chosen, rejected)]
    start = min(learnt)
    differing = np.flatnonzero(chosen.ids[:start] != rejected.ids[:start])
    start = max(int(differing[0]) if len(differing) else start, 1)
    for tokens, first in zip((chosen, rejected), learnt, strict=True):
        tokens.labels[start:first] = tokens.ids[start:first]

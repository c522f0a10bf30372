"""Text of which the end is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.values import Piece

if TYPE_CHECKING:
    from longline.config.sections import TrainOn


def behind(prompt: str, answer: str, train_on: TrainOn = "completion") -> Piece:
    """A prompt and the answer to it, which is learnt; with `all` both are."""
    return Piece(prompt + answer, [(0 if train_on == "all" else len(prompt), len(prompt) + len(answer))])

"""Text of which the end is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline.data.values import Piece, short

if TYPE_CHECKING:
    from longline.config.sections import TrainOn
    from longline.data.notes import Notes


def one_of(value: Any, notes: Notes) -> Any:
    """The first of a list of texts that are all answers, as evaluations have them; whatever else a column holds stays."""
    if not (isinstance(value, list) and value and all(isinstance(answer, str) for answer in value)):
        return value
    if len(value) > 1:
        notes.add("the first of several answers is taken", short(value[1]), warns=False)
    return value[0]


def behind(prompt: str, answer: str, train_on: TrainOn = "completion") -> Piece:
    """A prompt and the answer to it, which is learnt; with `all` both are."""
    return Piece(prompt + answer, [(0 if train_on == "all" else len(prompt), len(prompt) + len(answer))])

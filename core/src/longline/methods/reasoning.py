"""The reward function `reasoning_gym`: scores answers to tasks of the package reasoning-gym with its own `score_answer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from longline.errors import ConfigError, DataError


def score(
    completions: Sequence[Any],
    answer: Sequence[Any] | None = None,
    metadata: Sequence[Any] | None = None,
    tag: str | None = "answer",
    **columns: Any,
) -> list[float]:
    """Score each completion from 0 to 1 as the task's own `score_answer` does.

    The data needs the columns `answer` and `metadata` as reasoning-gym makes them (metadata may be JSON text); `metadata` names
    the task in `source_dataset`. What stands between `<answer>` and `</answer>` is scored; a completion without the tag is scored
    whole. Another `tag`, or null for the whole text always, is set under the reward's `options`.

    Raises:
        DataError: the columns are missing or name no task.
        ConfigError: reasoning-gym is not installed.
    """
    if answer is None or metadata is None:
        from longline.methods.rewards import RESERVED

        found = ", ".join(sorted(columns.keys() - RESERVED)) or "none"
        raise DataError(
            f"the reward reasoning_gym needs the columns answer and metadata, and the data has: {found}",
            hint="write the rows of a reasoning_gym dataset as they are, with `question` as the prompt",
        )
    question = columns.get("question") or [None] * len(completions)
    rows = zip(completions, question, answer, metadata, strict=True)
    return [_score(text_of(completion), asked, right, about, tag) for completion, asked, right, about in rows]


def text_of(completion: Any) -> str:
    """The text of a completion, whether it came as text or as messages."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content") or "") for message in completion)


def _score(text: str, question: Any, answer: Any, metadata: Any, tag: str | None) -> float:
    about = json.loads(metadata) if isinstance(metadata, str) else metadata
    if not isinstance(about, Mapping) or not isinstance(about.get("source_dataset"), str):
        raise DataError("the column metadata names no reasoning-gym task: `source_dataset` is missing")
    extract, score_answer = _task(about["source_dataset"])
    found = extract(text, tag_name=tag) if tag else None
    return float(score_answer(text if found is None else found, {"question": question, "answer": answer, "metadata": about}))


@cache
def _task(name: str) -> tuple[Callable[..., str | None], Callable[..., float]]:
    try:
        from reasoning_gym import get_score_answer_fn
        from reasoning_gym.utils import extract_answer
    except ImportError as error:
        hint = "pip install 'longline[reasoning-gym]'"
        raise ConfigError(f"the reward reasoning_gym needs the package reasoning-gym: {error}", hint=hint) from error
    try:
        return extract_answer, get_score_answer_fn(name)
    except ValueError as error:
        raise DataError(f"the column metadata names a task that reasoning-gym does not have: {name!r}") from error

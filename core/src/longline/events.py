"""The small frozen values that hooks carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Status = Literal["completed", "failed", "interrupted"]
Role = str
"""What a model is for: policy, reference, or a name such as teacher that a plugin gave `run.load_model`."""
AlertLevel = Literal["info", "warning", "error"]
FindingLevel = Literal["ok", "warning", "error"]
Cell = str | int | float | bool | None
IGNORED = -100
"""The label of a token that is not learnt, as torch's cross entropy has it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should be told now: `title` in a few words, `text` with what, where and what to do."""

    title: str
    text: str = ""
    level: AlertLevel = "warning"
    step: int | None = None

    def __post_init__(self) -> None:
        if self.level not in get_args(AlertLevel):  # a tracker would refuse it later, where nobody knows who made it
            raise ValueError(f"Alert(level={self.level!r}): the levels are {', '.join(get_args(AlertLevel))}")


@dataclass(frozen=True, slots=True)
class Finding:
    """What `longline doctor` saw of one thing: `name` in a word or two, `text` as it is, and what to do where it is not well."""

    name: str
    text: str
    level: FindingLevel = "ok"
    hint: str | None = None

    def __post_init__(self) -> None:
        if self.level not in get_args(FindingLevel):
            raise ValueError(f"Finding(level={self.level!r}): the levels are {', '.join(get_args(FindingLevel))}")


@dataclass(frozen=True, slots=True)
class Column:
    """A further column of the data that reaches the batch: the column `name` of the rows, or what their format computed for it.

    `align` row: one value for each row. `align` token: one for each of its tokens, cut, packed and padded with them. `dtype` is
    a numpy name (bool, uint8, int8, int16, int32, int64, float16, float32, float64); or `text`, or `json`, which holds any value
    as JSON text, both aligned to rows only. With `width` k each value is a vector of k numbers. `fill` is what stands where a
    batch is padded.
    """

    name: str
    align: Literal["row", "token"] = "row"
    dtype: str = "float32"
    width: int | None = None
    fill: float = 0


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """Scores answers: `function(prompts, completions, **columns)` returns a number for each, or None where it does not apply.

    `prompts` and `completions` are lists of texts, or of lists of messages when the prompt is one; every other column of the data
    comes as a list under its name. `weight` is its share of the sum that advantages are computed from.
    """

    name: str
    function: Callable[..., Sequence[float | None]]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Completions:
    """What a preference or reinforcement method trained on in one optimizer step, of all ranks and accumulated batches.

    Every row has the same columns, texts first: prompt, then chosen and rejected, or completion; then the numbers that the
    trainer computed from them, before the weights changed. `score` names the column that tells good rows from bad ones.
    """

    method: str
    rows: tuple[Mapping[str, Cell], ...]
    score: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to show: `name` is the same for every table that continues another, `step` tells them apart."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    step: int


@dataclass(frozen=True, slots=True)
class Timing:
    """One measured span: `name` is `Class.method` or what its author called it.

    `seconds` is the time from its start to its end, also when the body raised (then `failed`). `parent` is the name of the span
    that it was measured inside of, `step` the optimizer step that was being made.
    """

    name: str
    seconds: float
    step: int | None = None
    parent: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to, as written to the manifest: counts, seconds, and the last value of every metric.

    A resumed run goes on from `from_step` and `from_tokens`, which `steps` and `tokens` include; `train_seconds` are those since.
    """

    steps: int = 0
    epochs: float = 0.0
    train_seconds: float = 0.0
    tokens: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    from_step: int = 0
    from_tokens: int = 0

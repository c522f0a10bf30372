"""The small frozen values that hooks carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["completed", "failed", "interrupted"]
Role = Literal["policy", "reference"]
AlertLevel = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should be told now: `title` in a few words, `text` with what, where and what to do."""

    title: str
    text: str = ""
    level: AlertLevel = "warning"
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to, as written to the manifest: counts, seconds, and the last value of every metric."""

    steps: int = 0
    epochs: float = 0.0
    train_seconds: float = 0.0
    tokens: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

"""One builder per method, and what they share: the trainer that Longline needs, and the bridge to the hooks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import Trainer, TrainingArguments


@dataclass(frozen=True, slots=True)
class Parts:
    """What a trainer is built of; the hooks have already answered for the class, the collator and the loss."""

    model: Any
    tokenizer: Any
    train: Any
    eval: Any
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    trainer_class: type[Trainer]


class Method(Protocol):
    """What the module of a method offers."""

    def arguments(self, trainer_args: Mapping[str, Any]) -> TrainingArguments:
        """Build the arguments object; a value that the class refuses is a ConfigError."""

    def trainer_class(self) -> type[Trainer]:
        """Return the trainer that the core answers with."""

    def build(self, parts: Parts, args: TrainingArguments) -> Trainer:
        """Build the trainer."""


_MODULES = {"sft": "longline.trainers.sft"}


def method(name: str) -> Method:
    """Return the builder of a method; imports torch and transformers."""
    return cast("Method", import_module(_MODULES[name]))

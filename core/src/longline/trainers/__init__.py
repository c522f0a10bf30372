"""One builder per method, and what they share: the trainer that Longline needs, and the bridge to the hooks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import Trainer, TrainingArguments

    from longline.events import RewardFunction


@dataclass(frozen=True, slots=True)
class Parts:
    """What a trainer is built of; the hooks have already answered for the class, the collator, the loss and the rewards.

    `reference` is the model that the policy is compared with: None when the method has none, or when it is the policy without
    its adapter. `rewards` is empty for methods that draw no answers.
    """

    model: Any
    reference: Any
    tokenizer: Any
    train: Any
    eval: Any
    collator: Callable[[list[dict[str, Any]]], Any]
    rewards: Sequence[RewardFunction]
    describe_rows: Callable[[list[int]], str]
    trainer_class: type[Trainer]


class Method(Protocol):
    """What the module of a method offers."""

    def arguments(self, trainer_args: Mapping[str, Any]) -> TrainingArguments:
        """Build the arguments object; a value that the class refuses is a ConfigError."""

    def needs_reference(self, args: TrainingArguments) -> bool:
        """Return whether the policy is compared with a model that was not tuned."""

    def trainer_class(self) -> type[Trainer]:
        """Return the trainer that the core answers with."""

    def build(self, parts: Parts, args: TrainingArguments) -> Trainer:
        """Build the trainer; what the class refuses is a ConfigError."""


_MODULES = {
    "sft": "longline.trainers.sft",
    "dpo": "longline.trainers.dpo",
    "kto": "longline.trainers.kto",
    "orpo": "longline.trainers.orpo",
    "cpo": "longline.trainers.cpo",
    "simpo": "longline.trainers.cpo",
    "grpo": "longline.trainers.grpo",
    "rloo": "longline.trainers.rloo",
    "reward": "longline.trainers.reward",
}


def method(name: str) -> Method:
    """Return the builder of a method; imports torch, transformers and for all but sft trl."""
    return cast("Method", import_module(_MODULES[name]))

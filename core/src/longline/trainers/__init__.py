"""The trainers of the methods, and what they share: the trainer that Longline needs, and the bridge to the hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import Trainer

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

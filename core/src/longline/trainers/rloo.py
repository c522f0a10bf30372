"""REINFORCE leave-one-out (Ahmadian et al. 2024) on trl.RLOOTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl import RLOOConfig
from trl import RLOOTrainer as TrlRLOOTrainer

from longline.trainers.answering import AnsweringTrainer, build_answering, needs_reference
from longline.trainers.trl import trl_arguments

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from longline.trainers import Parts

__all__ = ["RLOOTrainer", "arguments", "build", "needs_reference", "trainer_class"]


class RLOOTrainer(AnsweringTrainer, TrlRLOOTrainer):
    """trl's trainer, which tells of every answer: its scores, their weighted sum and its advantage."""


def arguments(trainer_args: Mapping[str, Any]) -> TrainingArguments:
    """Build trl's RLOOConfig. Raises ConfigError for what it refuses."""
    return trl_arguments(RLOOConfig, trainer_args)


def trainer_class() -> type[Trainer]:
    """Return the core's trainer for rloo."""
    return RLOOTrainer


def build(parts: Parts, args: TrainingArguments) -> Trainer:
    """Build the trainer of prepared prompts. Raises ConfigError for what trl refuses."""
    return build_answering(parts, args, "RLOOTrainer")

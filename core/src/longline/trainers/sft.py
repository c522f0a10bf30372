"""Supervised fine-tuning on transformers.Trainer: the rows are already tokens and labels, so nothing else is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments

from longline.errors import ConfigError, Problem
from longline.trainers.trainer import LonglineTrainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longline.trainers import Parts


class SFTTrainer(LonglineTrainer, Trainer):
    """transformers.Trainer with Longline's checkpoints, loss guard and answers to hooks."""


def arguments(trainer_args: Mapping[str, Any]) -> TrainingArguments:
    """Build `TrainingArguments`.

    Raises:
        ConfigError: the class refuses a value or a combination.
    """
    try:
        return TrainingArguments(**trainer_args)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError([Problem(f"transformers.TrainingArguments: {error}", path="trainer")]) from error


def trainer_class() -> type[Trainer]:
    """Return the core's trainer for sft."""
    return SFTTrainer


def build(parts: Parts, args: TrainingArguments) -> Trainer:
    """Build the trainer of prepared rows."""
    return parts.trainer_class(
        model=parts.model,
        args=args,
        train_dataset=parts.train,
        eval_dataset=parts.eval,
        data_collator=parts.collator,
        processing_class=parts.tokenizer,
    )

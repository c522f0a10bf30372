"""What ORPO and CPO share: trl's experimental trainers run both sides of a pair in one batch, and prepare rows themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from datasets import Dataset
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from longline.events import IGNORED
from longline.trainers.trl import TrlTrainer, construct

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments

    from longline.trainers import Parts

SIDES = ("chosen", "rejected")


class ConcatenatedTrainer(TrlTrainer):
    """Mixin before trl's ORPOTrainer or CPOTrainer."""

    def concatenated_forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Hand trl our batch by its own names."""
        self._pairs = batch
        return super().concatenated_forward(model, by_sides(batch))  # type: ignore[misc]


def by_sides(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch [2 * pairs, length] as trl's columns: input_ids, attention_mask and labels of either side, [pairs, length]."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    columns = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    return {
        f"{side}_{name}": half for name, values in columns.items() for side, half in zip(SIDES, values.chunk(2), strict=True)
    }


def build_concatenated(parts: Parts, args: TrainingArguments, name: str) -> Trainer:
    """Build the trainer. trl's constructor tokenises rows of text: it gets one to try its hand on, and then ours.

    Raises:
        ConfigError: trl refuses something.
    """
    sample = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    sampled = {"train_dataset": sample, "eval_dataset": None if parts.eval is None else sample}
    try:
        trainer = construct(parts, args, name, data_collator=parts.collator, **sampled)
    finally:
        if shown:
            enable_progress_bar()
    trainer.train_dataset, trainer.eval_dataset = parts.train, parts.eval
    trainer.use_dpo_data_collator = True  # ours has the same columns; trl warns at every evaluation step otherwise
    return cast("Trainer", trainer)

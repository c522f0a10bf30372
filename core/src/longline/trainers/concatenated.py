"""What ORPO and CPO share: trl's experimental trainers run both sides of a pair in one batch, and prepare rows themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from longline import upstream
from longline.events import IGNORED
from longline.trainers.trl import TrlTrainer

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from longline.trainers import Parts

SIDES = ("chosen", "rejected")


class ConcatenatedTrainer(TrlTrainer):
    """Mixin before trl's ORPOTrainer or CPOTrainer."""

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer. trl's constructor tokenises rows of text: it gets one to try its hand on, and then ours.

        Raises:
            ConfigError: trl refuses something.
        """
        sample = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
        # trl maps over the one row, and datasets would show a bar for it.
        hidden = are_progress_bars_disabled()
        disable_progress_bars()
        sampled = {"train_dataset": sample, "eval_dataset": None if parts.eval is None else sample}
        try:
            trainer = cls.construct(parts, args, data_collator=parts.collator, **sampled)
        finally:
            if not hidden:
                enable_progress_bars()
        trainer.train_dataset, trainer.eval_dataset = parts.train, parts.eval
        upstream.accept_collator(trainer)
        return trainer

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

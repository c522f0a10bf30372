"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on trl.KTOTrainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from trl import KTOTrainer as TrlKTOTrainer

from longline.trainers.trl import TrlTrainer, policy_and_reference

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.events import Cell
    from longline.trainers import Parts


class KTOTrainer(TrlTrainer, TrlKTOTrainer):
    """trl's trainer, which tells of its rows and their rewards: beta times the log ratio of policy and reference."""

    called = "trl.KTOTrainer"

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared rows with labels. Raises ConfigError for what trl refuses."""
        return cls.construct(parts, args, ref_model=parts.reference, data_collator=parts.collator)

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        if not self.noting:
            return super().method_loss(model, inputs, num_items_in_batch)
        with self.log_probabilities() as seen:
            result = super().method_loss(model, inputs, num_items_in_batch)
        policy, reference = (values[:, -(inputs["input_ids"].size(1) - 1) :].sum(1) for values in policy_and_reference(seen))
        rewards = self.beta * (policy - reference)
        batch = dict(inputs)

        def rows() -> Iterator[dict[str, Cell]]:
            texts = zip(*self.prompts_and_completions(batch), strict=True)
            numbers = zip(batch["label"].tolist(), rewards.float().cpu().tolist(), strict=True)
            for (prompt, completion), (label, reward) in zip(texts, numbers, strict=True):
                yield {"prompt": prompt, "completion": completion, "label": label, "reward": reward}

        self.note(rows)
        return result

"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on trl.KTOTrainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trl import KTOConfig
from trl import KTOTrainer as TrlKTOTrainer

from longline.trainers.trl import TrlTrainer, construct, policy_and_reference, trl_arguments

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from longline.events import Cell
    from longline.trainers import Parts


class KTOTrainer(TrlTrainer, TrlKTOTrainer):
    """trl's trainer, which tells of its rows and their rewards: beta times the log ratio of policy and reference."""

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


def arguments(trainer_args: Mapping[str, Any]) -> TrainingArguments:
    """Build trl's KTOConfig. Raises ConfigError for what it refuses."""
    return trl_arguments(KTOConfig, trainer_args)


def needs_reference(args: TrainingArguments) -> bool:
    """The reference always runs beside the policy."""
    return True


def trainer_class() -> type[Trainer]:
    """Return the core's trainer for kto."""
    return KTOTrainer


def build(parts: Parts, args: TrainingArguments) -> Trainer:
    """Build the trainer of prepared rows with labels. Raises ConfigError for what trl refuses."""
    trainer: Trainer = construct(parts, args, "KTOTrainer", ref_model=parts.reference, data_collator=parts.collator)
    return trainer

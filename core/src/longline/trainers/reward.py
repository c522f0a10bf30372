"""Reward models: a score for each text, learnt from pairs (Bradley-Terry), on trl.RewardTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from trl import RewardTrainer as TrlRewardTrainer

from longline.trainers.comparing import ComparingTrainer
from longline.trainers.trainer import LonglineTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.trainers import Parts


class RewardTrainer(ComparingTrainer, TrlRewardTrainer):
    """trl's trainer, which tells of its pairs and the scores of both sides."""

    called = "trl.RewardTrainer"

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared pairs. Raises ConfigError for what trl refuses."""
        # trl leaves out pairs by its own limit; ours are cut to data.max_length already.
        cast("Any", args).max_length = None
        return super().build(parts, args)

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss and the model's outputs, and note the batch if anybody wants to know."""
        known = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        loss, outputs = LonglineTrainer.method_loss(self, model, known, num_items_in_batch)
        if self.noting:
            chosen, rejected = outputs.logits.detach().squeeze(-1).chunk(2)
            self.note_pairs(inputs, chosen, rejected)
        return loss * self.share(inputs), outputs

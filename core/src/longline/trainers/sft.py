"""Supervised fine-tuning on transformers.Trainer: the rows are already tokens and labels, so nothing else is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import Trainer

from longline.events import IGNORED
from longline.trainers.trainer import LonglineTrainer


class SFTTrainer(LonglineTrainer, Trainer):
    """transformers.Trainer with Longline's checkpoints, loss guard and answers to hooks.

    Its eval_loss is the mean over all trained tokens, as `longline evaluate` computes it, and not the mean of batch means, which
    depends on the batch size and weighs a short answer's token more than a long one's.
    """

    counted_by: ClassVar[Mapping[str, str]] = {"loss": "tokens"}

    def counts(self, inputs: Any) -> dict[str, float]:
        """The rows of a batch, and its learnt tokens."""
        return {**super().counts(inputs), "tokens": int((inputs["labels"][..., 1:] != IGNORED).sum())}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Ask whoever answered provide_loss; in an evaluation for the mean over the batch's own tokens.

        transformers counts the tokens of all ranks there, too, and scales by their number, as a gradient needs it: weighed again
        by its own tokens, a batch would count for more the fewer the other ranks have.
        """
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch if model.training else None)

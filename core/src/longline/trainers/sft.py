"""Supervised fine-tuning on transformers.Trainer: the rows are already tokens and labels, so nothing else is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from longline.events import IGNORED
from longline.trainers.trainer import LonglineTrainer

if TYPE_CHECKING:
    from transformers.trainer_utils import EvalLoopOutput


class SFTTrainer(LonglineTrainer, Trainer):
    """transformers.Trainer with Longline's checkpoints, loss guard and answers to hooks.

    Its eval_loss is the mean over all trained tokens, as `longline evaluate` computes it, and not the mean of batch means, which
    depends on the batch size and weighs a short answer's token more than a long one's.
    """

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Run the base class's loop while `prediction_step` sums up losses and tokens."""
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        output = super().evaluation_loop(*args, **kwargs)
        loss, tokens = self.accelerator.reduce(self._sums, reduction="sum").tolist()
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        if tokens and output.metrics and name in output.metrics:
            output.metrics[name] = loss / tokens
        return output

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Ask whoever answered provide_loss; in an evaluation for the mean over the batch's own tokens.

        transformers counts the tokens of all ranks there, too, and scales by their number, as a gradient needs it: weighed again
        by its own tokens, a batch would count for more the fewer the other ranks have.
        """
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch if model.training else None)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch, and add its loss and its tokens to the sums."""
        tokens = (inputs["labels"][..., 1:] != IGNORED).sum()
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None and tokens:
            self._sums += torch.stack([loss.double() * tokens, tokens.double()])
        return loss, logits, labels

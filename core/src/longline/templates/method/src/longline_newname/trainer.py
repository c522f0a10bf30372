"""The trainer: transformers.Trainer with Longline's checkpoints and hooks, and the method's own loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from longline.events import IGNORED
from longline.trainers.trainer import LonglineTrainer
from torch.nn.functional import cross_entropy
from transformers import Trainer

if TYPE_CHECKING:
    import torch
    from longline.trainers import Parts
    from transformers import TrainingArguments

    from longline_newname.arguments import NewNameArguments


class NewNameTrainer(LonglineTrainer, Trainer):
    """Its loss is a mean over rows, so that it is the same in batches and in accumulated ones."""

    args: NewNameArguments

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared samples."""
        trainer = super().build(parts, args)
        # The loss is a mean over rows, not a sum over tokens: it is divided by the number of accumulated batches.
        trainer.model_accepts_loss_kwargs = False
        return trainer

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return the loss, a scalar, and the model's outputs; evaluations ask for it as well."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return confident_loss(outputs.logits, inputs["labels"], self.args.beta), outputs


def confident_loss(logits: torch.Tensor, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """The mean over rows of cross entropy less `beta` times the prediction's entropy, a scalar.

    After Pereyra et al. (2017). `logits` are [rows, length, vocabulary], `labels` int64 [rows, length]: what is IGNORED
    is not learnt. The token at each place is predicted by the one before it.
    """
    before, labels = logits[:, :-1].float(), labels[:, 1:]
    trained = labels != IGNORED
    losses = cross_entropy(before.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    chances = before.log_softmax(-1)
    entropies = -(chances.exp() * chances).sum(-1)
    by_row = ((losses - beta * entropies) * trained).sum(1) / trained.sum(1).clamp(min=1)
    return by_row.mean()

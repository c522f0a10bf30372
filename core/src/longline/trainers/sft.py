"""Supervised fine-tuning on transformers.Trainer: the rows are already tokens and labels, so nothing else is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments

from longline.errors import ConfigError, Problem
from longline.events import IGNORED
from longline.trainers.trainer import LonglineTrainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers.trainer_utils import EvalLoopOutput

    from longline.trainers import Parts


class SFTTrainer(LonglineTrainer, Trainer):
    """transformers.Trainer with Longline's checkpoints, loss guard and answers to hooks.

    Its eval_loss is the mean over all trained tokens, as `longline evaluate` computes it, and not the mean of batch means, which
    depends on the batch size.
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

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch, and add its loss and its tokens to the sums."""
        tokens = (inputs["labels"][..., 1:] != IGNORED).sum()
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None and tokens:
            self._sums += torch.stack([loss.double() * tokens, tokens.double()])
        return loss, logits, labels


def arguments(trainer_args: Mapping[str, Any]) -> TrainingArguments:
    """Build `TrainingArguments`.

    Raises:
        ConfigError: the class refuses a value or a combination.
    """
    try:
        return TrainingArguments(**trainer_args)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError([Problem(f"transformers.TrainingArguments: {error}", path="trainer")]) from error


def needs_reference(args: TrainingArguments) -> bool:
    """Rows are learnt as they are, compared with nothing."""
    return False


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

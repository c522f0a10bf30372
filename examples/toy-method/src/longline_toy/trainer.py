"""The trainer: transformers.Trainer with Longline's checkpoints and hooks, and a loss over the answers of each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import Trainer

from longline.events import IGNORED
from longline.trainers.trainer import LonglineTrainer
from longline_toy.loss import answer_scores, pairs_right, plackett_luce

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.events import Cell
    from longline.trainers import Parts


class RankedTrainer(LonglineTrainer, Trainer):
    """Its loss is the mean over rows, whatever the number of their answers."""

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared rankings."""
        trainer = super().build(parts, args)
        # The loss is a mean over rows, not a sum over tokens: it is divided by the number of accumulated batches.
        trainer.model_accepts_loss_kwargs = False
        return trainer

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return the loss and the model's outputs, and note the batch if anybody wants to know."""
        scores, outputs = answer_scores(model, inputs)
        by_row = (self.args.beta * scores).split(inputs["answer_counts"].tolist())
        if self.noting:
            self._note_rankings(inputs, [own.detach() for own in by_row])
        return torch.stack([plackett_luce(own) for own in by_row]).mean(), outputs

    def _note_rankings(self, inputs: dict[str, torch.Tensor], by_row: list[torch.Tensor]) -> None:
        """Keep what makes the rows of `on_completions`; it is decoded when the step is done."""
        ids, labels = inputs["input_ids"], inputs["labels"]

        def rows() -> Iterator[dict[str, Cell]]:
            start = 0
            for own in by_row:
                best, worst = start, start + len(own) - 1
                start += len(own)
                yield {
                    "prompt": self._text(ids[best][: int((labels[best] != IGNORED).int().argmax())]),
                    "best": self._text(ids[best][labels[best] != IGNORED]),
                    "worst": self._text(ids[worst][labels[worst] != IGNORED]),
                    "score_best": own[0].item(),
                    "score_worst": own[-1].item(),
                    "pairs_right": pairs_right(own).item(),
                }

        self.note(rows)

    def _text(self, ids: torch.Tensor) -> str:
        return str(self.processing_class.decode(ids.tolist(), skip_special_tokens=True))

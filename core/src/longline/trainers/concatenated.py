"""What ORPO and CPO share: trl's experimental trainers run both sides of a pair in one batch, and prepare rows themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from longline import upstream
from longline.events import IGNORED
from longline.trainers.comparing import ComparingTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import TrainingArguments

    from longline.trainers import Parts
    from longline.trainers.evaluating import Tally

SIDES = ("chosen", "rejected")
NLL = "nll_loss"
"""What trl calls the mean that is learnt."""


class ConcatenatedTrainer(ComparingTrainer):
    """Mixin before trl's ORPOTrainer or CPOTrainer.

    Both learn the better answer beside comparing: by the mean over its tokens, in training those of the whole step on all ranks.
    trl takes the mean of each batch on each device, so that its loss depends on how many there are.
    """

    counted_by: ClassVar[Mapping[str, str]] = {f"eval_{NLL}": "good tokens"}
    learnt: float
    """By what that mean is multiplied in the loss."""

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
        upstream.trl.accept_collator(trainer)
        return trainer

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Count the tokens of all ranks as well."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._step:
            tokens = torch.tensor(self._step["good tokens"], device=device)
            self._step = {**self._step, "good tokens": self.accelerator.reduce(tokens, reduction="mean").item()}
        return batches, items

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss: what compares has the share of the rows; what is learnt has that of the tokens already."""
        loss, outputs = super().method_loss(model, inputs, num_items_in_batch)
        return loss + (1 - self.share(inputs)) * self.learnt * self._nll, outputs

    def concatenated_forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Hand trl our batch by its own names, and let it learn the tokens of the better answers alone."""
        self._pairs = batch
        chosen, rejected, chosen_logits, rejected_logits, nll, *more = super().concatenated_forward(model, by_sides(batch))  # type: ignore[misc]
        nll = self.negative_log_likelihood(chosen, nll, self.sides(batch)[0].sum(1).to(chosen.device))
        if self._step is not None and model.training:
            nll = nll * self.counts(batch)["good tokens"] / self._step["good tokens"]
        self._nll = nll
        return chosen, rejected, chosen_logits, rejected_logits, nll, *more

    def negative_log_likelihood(self, chosen: torch.Tensor, nll: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of the better answers in a batch, which have `tokens` [pairs] each; here what trl says it is."""
        return nll

    def tally(self, tally: Tally, numbers: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Count what compares by rows, and what is learnt by tokens."""
        loss = numbers["loss"] - self.learnt * numbers[f"eval_{NLL}"]
        super().tally(tally, {**numbers, "loss": loss}, counts)

    def conclude(self, numbers: dict[str, float], rows: list[Any]) -> None:
        """Put the parts of the loss together."""
        numbers["loss"] += self.learnt * numbers[f"eval_{NLL}"]


def by_sides(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch [2 * pairs, length] as trl's columns: input_ids, attention_mask and labels of either side, [pairs, length]."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    columns = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    return {
        f"{side}_{name}": half for name, values in columns.items() for side, half in zip(SIDES, values.chunk(2), strict=True)
    }

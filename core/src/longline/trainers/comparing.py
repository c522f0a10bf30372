"""What dpo, kto, reward, orpo and cpo share: answers are given, and a step or an evaluation is a mean over all of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from longline.trainers.evaluating import GREATEST, LEAST, Alone
from longline.trainers.trl import TrlTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class ComparingTrainer(TrlTrainer):
    """Mixin before a trainer of trl that compares given answers."""

    counted_by: ClassVar[Mapping[str, str]] = {
        "entropy": "tokens",
        "mean_token_accuracy": "good tokens",
        "logits/chosen": "good tokens",
        "logits/rejected": "bad tokens",
        "min_reward": LEAST,
        "max_reward": GREATEST,
    }
    _step: Mapping[str, float] | None = None

    def sides(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Where tokens [rows, length - 1] of the good and of the bad answers of a batch are learnt."""
        good, bad = inputs["completion_mask"][:, 1:].chunk(2)
        return good, bad

    def counts(self, inputs: Any) -> dict[str, float]:
        """The rows of a batch, of the data and of each side, and their learnt tokens."""
        good, bad = self.sides(inputs)
        tokens = {"good tokens": int(good.sum()), "bad tokens": int(bad.sum())}
        return {"rows": len(good), "good rows": len(good), "bad rows": len(bad), "tokens": sum(tokens.values()), **tokens}

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Fetch the batches of a step, and count what is in them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counted = [self.counts(batch) for batch in batches]
        self._step = {name: sum(counts[name] for counts in counted) / len(counted) for name in (counted[0] if counted else ())}
        return batches, items

    def share(self, inputs: Any) -> float:
        """By what the mean over a batch's rows is multiplied, so that the mean over a step's batches is that over its rows.

        Ranks have as many rows: accelerate sees to that in training.
        """
        if self._step is None or not self.model.training:  # type: ignore[union-attr]
            return 1.0
        return self.counts(inputs)["rows"] / self._step["rows"]

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss, in training by its share of the step."""
        share = self.share(inputs)
        loss, outputs = super().method_loss(model, inputs, num_items_in_batch)
        return loss if share == 1 else loss * share, outputs

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch of this rank's, with numbers of this rank's: trl's gathering mixes ranks, weighing them alike."""
        everybody, self.accelerator = self.accelerator, Alone(self.accelerator)
        try:
            return super().prediction_step(*args, **kwargs)
        finally:
            self.accelerator = everybody

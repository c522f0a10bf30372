"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on trl.KTOTrainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from trl import KTOTrainer as TrlKTOTrainer

from longline.errors import DataError
from longline.trainers.comparing import ComparingTrainer
from longline.trainers.trl import policy_and_reference

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.events import Cell
    from longline.trainers import Parts
    from longline.trainers.evaluating import Tally


MISMATCH = "mismatch"
"""Under what a row for the collator has the one whose answer is paired with its prompt."""


@dataclass(frozen=True)
class Mismatching:
    """The collator, which is given the row whose answer makes a mismatch, where the batch itself has none.

    A batch pairs each prompt with the answer of another of its rows, as trl does; with one row that would be its own. In an
    evaluation (`always`) it is that of the row before in the data, so that nothing depends on the size of batches.
    """

    collator: Callable[[list[dict[str, Any]]], Any]
    data: Any
    always: bool = False

    @cached_property
    def places(self) -> tuple[Any, Any]:
        """The ids of all rows, rising, and where in the data they are."""
        ids = np.asarray(self.data.with_format("numpy")["row_ids"][:]).reshape(len(self.data), -1)[:, 0]
        order = np.argsort(ids, kind="stable")
        return ids[order], order

    def before(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row in front of another, and in front of the first the last one."""
        ids, order = self.places
        place = int(order[np.searchsorted(ids, row["row_ids"][0])])
        found: Mapping[str, Any] = self.data[place - 1]
        return found

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """Make the batch."""
        if self.always or len(rows) == 1:
            rows = [{**row, MISMATCH: self.before(row)} for row in rows]
        return self.collator(rows)


class KTOTrainer(ComparingTrainer, TrlKTOTrainer):
    """trl's trainer, which tells of its rows and their rewards: beta times the log ratio of policy and reference.

    The KL term of an evaluation is the mean over all of its rows, and not over each batch.
    """

    called = "trl.KTOTrainer"
    counted_by: ClassVar[Mapping[str, str]] = {
        **ComparingTrainer.counted_by,
        **{f"{what}/chosen": "good rows" for what in ("rewards", "logps")},
        **{f"{what}/rejected": "bad rows" for what in ("rewards", "logps")},
    }
    _compared: Sequence[tuple[bool, float, float]] = ()

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared rows with labels. Raises ConfigError for what trl refuses."""
        for split, rows in (("train", parts.train), ("evaluation", parts.eval)):
            if rows is not None and len(rows) < 2:
                text = f"kto pairs each prompt with the answer of another row, and the {split} data has one row"
                raise DataError(text, hint="add rows, or remove `data.eval` or `data.eval_fraction`")
        collator = Mismatching(parts.collator, parts.train)
        return cls.construct(parts, args, ref_model=parts.reference, data_collator=collator)

    def sides(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows have labels."""
        mask, good = inputs["completion_mask"][:, 1:], inputs["label"].bool()
        return mask[good], mask[~good]

    def counts(self, inputs: Any) -> dict[str, float]:
        """A row is one answer."""
        return {**super().counts(inputs), "rows": len(inputs["label"])}

    def evaluation_collator(self, rows: Any) -> Callable[[list[Any]], Any]:
        """Pair every row with the one before it."""
        return replace(self.data_collator, data=rows, always=True)  # type: ignore[type-var]

    def tally(self, tally: Tally, numbers: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Keep the rows of the batch as well."""
        super().tally(tally, numbers, counts)
        tally.rows += self._compared

    def conclude(self, numbers: dict[str, float], rows: list[Any]) -> None:
        """Compute the KL term of all rows and the loss with it, and the margin of all."""
        good, bad = numbers.get("rewards/chosen"), numbers.get("rewards/rejected")
        if good is not None and bad is not None:
            numbers["rewards/margins"] = good - bad
        if not rows:
            return  # a loss without the term
        labels, ratios, mismatched = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
        kl = mismatched.mean().clamp(min=0)
        # 1 - sigmoid(beta * (ratio - kl)) of good answers, of bad ones with the sign turned (Ethayarajh et al. 2024, eq. 8)
        signs = 2 * labels - 1
        weights = torch.where(labels > 0, self.desirable_weight, self.undesirable_weight)
        losses = weights * torch.sigmoid(-self.beta * signs * (ratios - kl))
        extra = self.router_aux_loss_coef * numbers["aux_loss"] if "aux_loss" in numbers else 0.0
        numbers.update(loss=losses.mean().item() + extra, kl=kl.item())

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        evaluates = self.calculate_KL and not self.model.training  # type: ignore[union-attr]
        if not self.noting and not evaluates:
            return super().method_loss(model, inputs, num_items_in_batch)
        with self.log_probabilities() as seen:
            result = super().method_loss(model, inputs, num_items_in_batch)
        if evaluates:
            self._compared = self._ratios(inputs, *seen)
            return result
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

    def _ratios(self, inputs: Mapping[str, torch.Tensor], *passes: torch.Tensor) -> list[tuple[bool, float, float]]:
        """The label of each row, the log ratio of policy and reference, and that of the mismatch."""
        names = ("KL_input_ids", "input_ids") * 2  # in this order trl asks the policy, then the reference
        sums = [values[:, -(inputs[name].size(1) - 1) :].sum(1).double() for name, values in zip(names, passes, strict=True)]
        mismatched, ratios = sums[0] - sums[2], sums[1] - sums[3]
        return list(zip(inputs["label"].tolist(), ratios.tolist(), mismatched.tolist(), strict=True))

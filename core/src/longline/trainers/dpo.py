"""Direct preference optimisation (Rafailov et al. 2023) on trl.DPOTrainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from trl import DPOTrainer as TrlDPOTrainer

from longline.trainers.comparing import ComparingTrainer
from longline.trainers.trl import policy_and_reference

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.trainers import Parts

PRECOMPUTED = ("ref_chosen_logps", "ref_rejected_logps")


class DPOTrainer(ComparingTrainer, TrlDPOTrainer):
    """trl's trainer, which tells of its pairs and their rewards: beta times the log ratio of policy and reference."""

    called = "trl.DPOTrainer"

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared pairs. Raises ConfigError for what trl refuses."""
        return cls.construct(parts, args, ref_model=parts.reference, data_collator=with_precomputed(parts.collator))

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        if not self.noting:
            return super().method_loss(model, inputs, num_items_in_batch)
        with self.log_probabilities() as seen:
            result = super().method_loss(model, inputs, num_items_in_batch)
        if self.precompute_ref_logps:
            policy = next(values for values in reversed(seen) if values.requires_grad).detach()
            reference = torch.cat([inputs[name] for name in PRECOMPUTED])
        else:
            policy, before = policy_and_reference(seen)
            reference = self._of_completions(before, inputs)
        chosen, rejected = (self.beta * (self._of_completions(policy, inputs) - reference)).chunk(2)
        self.note_pairs(inputs, chosen, rejected)
        return result

    def _of_completions(self, values: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The log probability of each completion; with `ld_alpha` what is longer than the other counts less (LD-DPO)."""
        learnt = inputs["completion_mask"][:, 1:]
        values = values[:, -learnt.size(1) :]
        alpha: float | None = self.ld_alpha
        if alpha is None:
            return values.sum(1)
        chosen, rejected = learnt.sum(1).chunk(2)
        shared = torch.minimum(chosen, rejected).repeat(2).unsqueeze(1)
        place = learnt.cumsum(1)
        inside = (values * ((place > 0) & (place <= shared))).sum(1)
        return inside + alpha * (values * (place > shared)).sum(1)


def with_precomputed(collator: Callable[[list[dict[str, Any]]], Any]) -> Callable[[list[dict[str, Any]]], Any]:
    """The collator, which also passes on the reference's log probabilities where trl has put them into the rows."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = collator(rows)
        for name in PRECOMPUTED:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    return collate

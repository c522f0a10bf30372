"""Odds ratio preference optimisation (Hong et al. 2024) on trl.experimental.orpo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from trl.experimental.orpo import ORPOConfig
from trl.experimental.orpo import ORPOTrainer as TrlORPOTrainer

from longline.trainers.concatenated import ConcatenatedTrainer, build_concatenated
from longline.trainers.trl import trl_arguments

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from longline.trainers import Parts


class ORPOTrainer(ConcatenatedTrainer, TrlORPOTrainer):
    """trl's trainer, which tells of its pairs: rewards are beta times the mean log probability of a token."""

    def odds_ratio_loss(self, policy_chosen_logps: torch.Tensor, policy_rejected_logps: torch.Tensor) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        result = super().odds_ratio_loss(policy_chosen_logps, policy_rejected_logps)
        if self.noting:
            _, chosen, rejected, *_ = result
            odds = log_odds(policy_chosen_logps.detach()) - log_odds(policy_rejected_logps.detach())
            self.note_pairs(self._pairs, chosen, rejected, log_odds_ratio=odds)
        return result


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of log(p), in float32."""
    values = log_probability.float()
    return values - torch.log(-torch.expm1(values))


def arguments(trainer_args: Mapping[str, Any]) -> TrainingArguments:
    """Build trl's ORPOConfig. Raises ConfigError for what it refuses."""
    return trl_arguments(ORPOConfig, trainer_args)


def needs_reference(args: TrainingArguments) -> bool:
    """ORPO compares with no reference."""
    return False


def trainer_class() -> type[Trainer]:
    """Return the core's trainer for orpo."""
    return ORPOTrainer


def build(parts: Parts, args: TrainingArguments) -> Trainer:
    """Build the trainer of prepared pairs. Raises ConfigError for what trl refuses."""
    return build_concatenated(parts, args, "experimental.orpo.ORPOTrainer")

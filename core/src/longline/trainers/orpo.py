"""Odds ratio preference optimisation (Hong et al. 2024) on trl.experimental.orpo."""

from __future__ import annotations

from typing import Any

import torch
from trl.experimental.orpo import ORPOTrainer as TrlORPOTrainer

from longline.trainers.concatenated import ConcatenatedTrainer


class ORPOTrainer(ConcatenatedTrainer, TrlORPOTrainer):
    """trl's trainer, which tells of its pairs: rewards are beta times the mean log probability of a token."""

    called = "trl.experimental.orpo.ORPOTrainer"
    learnt = 1.0

    def negative_log_likelihood(self, chosen: torch.Tensor, nll: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Leave out what trl counts too: the prompts, and what follows the end. `chosen` has each answer's mean."""
        return -(chosen * tokens).sum() / tokens.sum()

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

"""Contrastive preference optimisation (Xu et al. 2024), and SimPO (Meng et al. 2024), on trl.experimental.cpo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.experimental.cpo import CPOTrainer as TrlCPOTrainer

from longline.trainers.concatenated import ConcatenatedTrainer

if TYPE_CHECKING:
    import torch


class CPOTrainer(ConcatenatedTrainer, TrlCPOTrainer):
    """trl's trainer, which tells of its pairs: rewards are beta times the log probability, for SimPO its mean over tokens."""

    called = "trl.experimental.cpo.CPOTrainer"

    @property
    def learnt(self) -> float:  # type: ignore[override]
        """`trainer.cpo_alpha`, which is 0 for SimPO."""
        return float(self.cpo_alpha)

    def cpo_loss(self, policy_chosen_logps: torch.Tensor, policy_rejected_logps: torch.Tensor) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        result = super().cpo_loss(policy_chosen_logps, policy_rejected_logps)
        if self.noting:
            _, chosen, rejected = result
            self.note_pairs(self._pairs, chosen, rejected)
        return result

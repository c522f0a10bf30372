"""Contrastive preference optimisation (Xu et al. 2024), and SimPO (Meng et al. 2024), on trl.experimental.cpo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl.experimental.cpo import CPOConfig
from trl.experimental.cpo import CPOTrainer as TrlCPOTrainer

from longline.trainers.concatenated import ConcatenatedTrainer, build_concatenated
from longline.trainers.trl import trl_arguments

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments

    from longline.trainers import Parts


class CPOTrainer(ConcatenatedTrainer, TrlCPOTrainer):
    """trl's trainer, which tells of its pairs: rewards are beta times the log probability, for SimPO its mean over tokens."""

    def cpo_loss(self, policy_chosen_logps: torch.Tensor, policy_rejected_logps: torch.Tensor) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        result = super().cpo_loss(policy_chosen_logps, policy_rejected_logps)
        if self.noting:
            _, chosen, rejected = result
            self.note_pairs(self._pairs, chosen, rejected)
        return result


def arguments(trainer_args: Mapping[str, Any]) -> TrainingArguments:
    """Build trl's CPOConfig. Raises ConfigError for what it refuses."""
    return trl_arguments(CPOConfig, trainer_args)


def needs_reference(args: TrainingArguments) -> bool:
    """Neither compares with a reference."""
    return False


def trainer_class() -> type[Trainer]:
    """Return the core's trainer for cpo and simpo."""
    return CPOTrainer


def build(parts: Parts, args: TrainingArguments) -> Trainer:
    """Build the trainer of prepared pairs. Raises ConfigError for what trl refuses."""
    return build_concatenated(parts, args, "experimental.cpo.CPOTrainer")

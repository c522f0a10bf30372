"""The trainer: that of sft, with the teacher's columns beside its rows."""

from __future__ import annotations

from longline.trainers.sft import SFTTrainer


class DistillTrainer(SFTTrainer):
    """What is evaluated is the mean over learnt tokens, as in training: cross entropy and divergence as `alpha` mixes them."""

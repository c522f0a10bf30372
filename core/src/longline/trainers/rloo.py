"""REINFORCE leave-one-out (Ahmadian et al. 2024) on trl.RLOOTrainer."""

from __future__ import annotations

from trl import RLOOTrainer as TrlRLOOTrainer

from longline.trainers.answering import AnsweringTrainer


class RLOOTrainer(AnsweringTrainer, TrlRLOOTrainer):
    """trl's trainer, which tells of every answer: its scores, their weighted sum and its advantage."""

    called = "trl.RLOOTrainer"

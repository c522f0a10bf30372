"""Group relative policy optimisation (Shao et al. 2024) on trl.GRPOTrainer."""

from __future__ import annotations

from trl import GRPOTrainer as TrlGRPOTrainer

from longline.trainers.answering import AnsweringTrainer


class GRPOTrainer(AnsweringTrainer, TrlGRPOTrainer):
    """trl's trainer, which tells of every answer: its scores, their weighted sum and its advantage."""

    called = "trl.GRPOTrainer"

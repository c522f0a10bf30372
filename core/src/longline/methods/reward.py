"""Reward models: a score for each text, learnt from pairs (Bradley-Terry)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from longline.methods.base import COLLATOR, Refusal, Starter
from longline.methods.trl import PairMethod


class Reward(PairMethod):
    """A model with one output, higher for the better side of each pair."""

    name = "reward"
    summary = "a model that scores answers"
    arguments = "trl.trainer.reward_config:RewardConfig"
    trainer = "longline.trainers.reward:RewardTrainer"
    output = "score"
    refused: ClassVar[Mapping[str, str]] = {**PairMethod.refused, "pad_to_multiple_of": COLLATOR}
    generation = None
    no_generation = Refusal("{name} is a reward model: it scores texts and writes none", "--base answers with its base")
    starter = Starter(PairMethod.starter.formats, learning_rate="1.0e-4")


REWARD = Reward()

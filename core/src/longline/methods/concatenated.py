"""ORPO (Hong et al. 2024), CPO (Xu et al. 2024) and SimPO (Meng et al. 2024): pairs in one batch, and no reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from longline.methods.trl import NO_ENCODER, PairMethod


class Orpo(PairMethod):
    """Learns the better side, and how much likelier than the worse one it is."""

    name = "orpo"
    summary = "preferences by odds ratio"
    arguments = "trl.experimental.orpo.orpo_config:ORPOConfig"
    trainer = "longline.trainers.orpo:ORPOTrainer"
    refused: ClassVar[Mapping[str, str]] = {**PairMethod.refused, "max_completion_length": NO_ENCODER}
    completions = replace(PairMethod.completions, numbers=(*PairMethod.completions.numbers, "log_odds_ratio"))


class Cpo(PairMethod):
    """Contrasts both sides without a reference, and learns the better one."""

    name = "cpo"
    summary = "contrastive preferences"
    arguments = "trl.experimental.cpo.cpo_config:CPOConfig"
    trainer = "longline.trainers.cpo:CPOTrainer"
    refused: ClassVar[Mapping[str, str]] = {**PairMethod.refused, "max_completion_length": NO_ENCODER}


class Simpo(Cpo):
    """CPO's trainer with its own loss and, unless `trainer.cpo_alpha` says otherwise, without the term that learns one side."""

    name = "simpo"
    summary = "preferences without a reference"
    defaults: ClassVar[Mapping[str, Any]] = {"loss_type": "simpo", "cpo_alpha": 0.0}
    refused: ClassVar[Mapping[str, str]] = {
        **Cpo.refused,
        "loss_type": "method simpo is this loss; use method cpo for the others",
    }
    starter = replace(PairMethod.starter, more="  beta: 2.0\n  simpo_gamma: 1.0")


ORPO, CPO, SIMPO = Orpo(), Cpo(), Simpo()

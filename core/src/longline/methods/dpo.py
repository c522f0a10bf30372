"""Direct preference optimisation (Rafailov et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from longline.methods.base import COLLATOR
from longline.methods.trl import PairMethod

if TYPE_CHECKING:
    from transformers import TrainingArguments


class Dpo(PairMethod):
    """Pairs, compared with what a reference makes of them."""

    name = "dpo"
    summary = "direct preference optimisation"
    arguments = "trl.trainer.dpo_config:DPOConfig"
    trainer = "longline.trainers.dpo:DPOTrainer"
    refused: ClassVar[Mapping[str, str]] = {**PairMethod.refused, "pad_to_multiple_of": COLLATOR}

    def has_reference(self, args: TrainingArguments) -> bool:
        """Without precomputed log probabilities the reference runs beside the policy."""
        return not cast("Any", args).precompute_ref_log_probs


DPO = Dpo()

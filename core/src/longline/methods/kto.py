"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from longline.methods.base import COLLATOR, CompletionColumns, Starter
from longline.methods.trl import TrlMethod

if TYPE_CHECKING:
    from transformers import TrainingArguments

_ANEW = "each batch pairs its rows anew, so nothing can be computed before"


class Kto(TrlMethod):
    """Answers that are each called good or bad, compared with what a reference makes of them."""

    name = "kto"
    summary = "answers with a label each"
    kind = "longline.data.kinds.labelled:LABELLED"
    arguments = "trl.trainer.kto_config:KTOConfig"
    trainer = "longline.trainers.kto:KTOTrainer"
    completions = CompletionColumns(texts=("prompt", "completion"), numbers=("label", "reward"), score="reward")
    refused: ClassVar[Mapping[str, str]] = {
        **TrlMethod.refused,
        "pad_to_multiple_of": COLLATOR,
        "train_sampling_strategy": "batches are fixed, because KTO pairs the rows of each; `data.shuffle` mixes them once",
        "precompute_ref_log_probs": _ANEW,
        "precompute_ref_batch_size": _ANEW,
    }
    starter = Starter("unpaired: prompt, completion, label", learning_rate="2.0e-5", more="  beta: 0.1")

    def has_reference(self, args: TrainingArguments) -> bool:
        """The reference always runs beside the policy."""
        return True


KTO = Kto()

"""Supervised fine-tuning: rows are learnt as they are, compared with nothing."""

from __future__ import annotations

from longline.methods.base import Method, Starter


class Sft(Method):
    """Supervised fine-tuning on transformers.Trainer."""

    name = "sft"
    summary = "supervised fine-tuning"
    packs = True
    chooses_trained = True
    cross_entropy = True
    counts_flops = True
    starter = Starter(
        "chat, alpaca, prompt_completion, completion, segments, tokenized",
        data="  packing: true                    # several samples in one row, isolated from each other",
    )

    def measures(self) -> frozenset[str] | None:
        """The loss; what a trainer of somebody else's gives, nobody knows."""
        return frozenset({"loss"}) if self.trainer == Sft.trainer else None


SFT = Sft()

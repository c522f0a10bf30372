"""Undocumented names of bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.upstream.assumption import Assumption, of, reads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_gradients(model: PreTrainedModel) -> None:
    """Have 4-bit layers on a CPU compute in one way: bitsandbytes repacks them in an evaluation, and packed ones drop gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


_assume = of("bitsandbytes", "0.50.2")

ASSUMPTIONS: tuple[Assumption, ...] = (
    _assume(
        "nn.Linear4bit.support_avx512bf16_for_cpu",
        "a layer on a CPU repacks its weights in evaluation, as no gradient passes, only where this is true",
        reads("bitsandbytes.nn:Linear4bit.forward", says=("self.support_avx512bf16_for_cpu and not self.training",)),
    ),
)

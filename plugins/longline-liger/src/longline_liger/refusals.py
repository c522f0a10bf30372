"""Kernels that Liger offers and that train something else, or nothing: found by the tests, refused by name.

Every line was seen with liger-kernel 0.8.5 and transformers 5.23 on a tiny model; the tests fail when one of them is repaired.
"""

from __future__ import annotations

WRONG: dict[tuple[str, str], str] = {
    ("glm4v", "rms_norm"): "its gradients are wrong: the kernel writes over values that the backward pass still needs",
    ("llama4", "rope"): "the loss is wrong when rows of a batch have different positions, as packed ones have",
    ("llama4_text", "rope"): "the loss is wrong when rows of a batch have different positions, as packed ones have",
    (
        "mllama",
        "fused_linear_cross_entropy",
    ): "its forward does not fit the model class of transformers 5: the first step fails",
    (
        "paligemma",
        "fused_linear_cross_entropy",
    ): "its forward does not fit the model class of transformers 5: the first step fails",
    (
        "qwen3_5",
        "fused_linear_cross_entropy",
    ): "its forward does not fit the model class of transformers 5: the first step fails",
}
"""Model type and Liger's name of the kernel, and what is wrong."""

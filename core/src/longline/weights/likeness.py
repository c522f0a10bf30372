"""Whether two models are one: a few logits of each, compared. What a model does is seen, not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXTS = (
    "A long line is one thin line with many hooks.",
    "Water boils at one hundred degrees, so the",
    "The capital of France is Paris. The capital of Italy is",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
)
"""Ordinary ones: on tokens at random, rounding to 16 bits moves the logits twice as far."""
LENGTH = 8
UNABLE = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError)
"""What models raise that cannot be asked; anything else, as a signal, is for others."""
SINGLE, HALF = 1e-3, 0.25
"""How far logits may be apart, in units of their spread: where all is computed in float32, and where anything is rounded to 16
bits. SmolLM2-135M is off by 0.00001 in the one, by 0.06 in the other; a random adapter of rank 16 makes 0.29, another model 1.4."""


def sample(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Token ids [rows, LENGTH] of ordinary text, each row with one of the newest added tokens at its end."""
    added = sorted(set(tokenizer.get_added_vocab().values()) - set(tokenizer.all_special_ids))
    newest = [[token] for token in added[-len(TEXTS) :]] or [[]]
    rows = []
    for number, text in enumerate(TEXTS):
        last = newest[number % len(newest)]
        ids = [int(token) for token in tokenizer(text)["input_ids"]] or [0]
        rows.append((ids * LENGTH)[: LENGTH - len(last)] + last)
    return torch.tensor(rows)


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """What the model makes of tokens [rows, length], without dropout: float32 on the CPU, [rows, length, size] or [rows, 1]."""
    training = [module for module in model.modules() if module.training]
    model.train(False)
    ids = tokens.to(next(model.parameters()).device)
    try:
        with torch.no_grad():
            made: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return torch.as_tensor(made.logits).detach().float().cpu()
    finally:
        for module in training:  # one by one: what a library froze in evaluation mode stays there
            module.training = True


def tried(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """The logits, or None where a model cannot be asked: its kernels need another device, or it wants more than tokens."""
    try:
        return logits(model, tokens)
    except UNABLE:
        return None


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The root mean square of the difference, in units of the spread of `one`; infinite where shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    one, other = one.nan_to_num(), other.nan_to_num()  # weights that are not finite already have been told of
    spread = one - one.mean(-1, keepdim=True) if one.shape[-1] > 1 else one
    size = float(spread.square().mean().sqrt())
    return float((one - other).square().mean().sqrt()) / (size or 1.0)


def tolerance(*models: PreTrainedModel, autocast: bool = False) -> float:
    """How far the logits of models may be apart that should be the same."""
    floats = (weight.dtype for model in models for weight in model.parameters() if weight.is_floating_point())
    quantised = any(getattr(model, "is_quantized", False) for model in models)
    return SINGLE if not autocast and not quantised and all(dtype == torch.float32 for dtype in floats) else HALF

"""The loss of a linear head in plain PyTorch, some tokens at a time: never are there logits of more than a chunk.

The gradients are computed in the forward, as Liger and torch do, while a chunk's probabilities are at hand; the backward only
multiplies them. So the head's three products are computed once, as in the plain loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from longline.loss.cross_entropy import loss_and_slope

if TYPE_CHECKING:
    from collections.abc import Sequence

BUDGET = 64 * 1024 * 1024
"""Bytes of float32 logits that a chunk holds when nobody says how many tokens it has."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Hidden states [N, size] and the weight [vocabulary, size] that they are multiplied with."""


def tokens_for(vocabulary: int) -> int:
    """How many tokens a chunk has by `BUDGET`."""
    return max(1, BUDGET // (4 * vocabulary))


def chunked_loss(
    pairs: Sequence[Pair],
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    softcap: float | None = None,
    tokens: int | None = None,
) -> torch.Tensor:
    """Sum the cross entropies of N tokens: a float32 scalar; its backward may be called once.

    Logits are the sum of `hidden @ weight.T` over `pairs`, plus `bias` [vocabulary], then softcap * tanh(logits / softcap).
    `targets` [N] are int64, and -100 counts nothing. Products are computed in the type of autocast where it is on, otherwise in
    the weight's; all else, and the sum of a weight's gradients, in float32.
    """
    tokens = tokens or tokens_for(pairs[0][1].shape[0])
    flat = [tensor for pair in pairs for tensor in pair]
    loss: torch.Tensor = _Chunked.apply(targets, bias, softcap, tokens, torch.is_grad_enabled(), *flat)  # type: ignore[no-untyped-call]
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, targets: torch.Tensor, bias: Any, softcap: float | None, tokens: int, learning: bool, *flat: torch.Tensor
    ) -> torch.Tensor:
        device = targets.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        inputs = (bias, *flat)
        wanted = [learning and tensor is not None and tensor.requires_grad for tensor in inputs]
        gradients = [
            torch.zeros_like(tensor, dtype=torch.float32) if want else None for tensor, want in zip(inputs, wanted, strict=True)
        ]
        total = torch.zeros((), dtype=torch.float32, device=targets.device)
        with torch.autocast(device, enabled=False):
            pairs = [(hidden, weight.to(dtype or weight.dtype)) for hidden, weight in zip(flat[::2], flat[1::2], strict=True)]
            for start in range(0, len(targets), tokens):
                rows = slice(start, start + tokens)
                parts = [(hidden[rows].to(weight.dtype), weight) for hidden, weight in pairs]
                loss, slope = _chunk(parts, bias, targets[rows], softcap)
                total += loss
                if any(wanted):
                    _collect(gradients, parts, slope, rows)
        ctx.gradients = [
            None if gradient is None else gradient.to(tensor.dtype) for gradient, tensor in zip(gradients, inputs, strict=True)
        ]
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the chunked loss gives its gradients once: call backward without retain_graph")
        bias, *flat = (None if gradient is None else gradient.mul_(outer) for gradient in gradients)
        return (None, bias, None, None, None, *flat)


def _chunk(
    parts: Sequence[Pair], bias: torch.Tensor | None, targets: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of some tokens, and what it changes by with each of their logits: float32 [tokens, vocabulary]."""
    logits = torch.mm(parts[0][0], parts[0][1].t()).float()
    for hidden, weight in parts[1:]:
        logits += torch.mm(hidden, weight.t())
    if bias is not None:
        logits += bias
    flatness = None
    if softcap is not None:
        bent = logits.div_(softcap).tanh_()
        logits, flatness = bent * softcap, bent.square_().neg_().add_(1)
    loss = loss_and_slope(logits, targets)
    return loss, logits if flatness is None else logits.mul_(flatness)


def _collect(gradients: Sequence[torch.Tensor | None], parts: Sequence[Pair], slope: torch.Tensor, rows: slice) -> None:
    """Add a chunk to the gradients of (bias, hidden, weight, hidden, weight ...)."""
    if gradients[0] is not None:
        gradients[0] += slope.sum(0)
    for place, (hidden, weight) in enumerate(parts):
        of_hidden, of_weight = gradients[1 + 2 * place], gradients[2 + 2 * place]
        rounded = slope.to(weight.dtype)
        if of_hidden is not None:
            of_hidden[rows] = torch.mm(rounded, weight)
        if of_weight is not None and weight.dtype == torch.float32:
            of_weight.addmm_(rounded.t(), hidden)
        elif of_weight is not None:
            of_weight += torch.mm(rounded.t(), hidden)

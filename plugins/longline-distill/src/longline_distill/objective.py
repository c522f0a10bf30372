"""The loss at the output head, some tokens at a time: never are there logits of more than a chunk, the teacher's neither.

The gradients are computed in the forward, while a chunk's logits are at hand; the backward only multiplies them (as Liger
Kernel does, Hsu et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from longline_distill.divergence import Known, Measured, Mix, measure

if TYPE_CHECKING:
    from longline.loss.head import Transform

BUDGET, ELSEWHERE = 32 * 1024 * 1024, 256 * 1024 * 1024
"""Bytes of float32 logits that a chunk holds when nobody says how many tokens it has: on a CPU, and on what has kernels to start.
About ten tensors of that size are there at a time."""


class View(Protocol):
    """What a teacher knows of the N learnt tokens of one batch."""

    def rows(self, start: int, stop: int) -> Known:
        """Of tokens `start` to `stop`, which may lie beyond N where a batch is rounded up: what is there counts nothing."""
        ...


class Objective:
    """A `LinearLoss`: from hidden states of learnt tokens to the sum of their losses; `sums` is what was measured on the way."""

    def __init__(self, mix: Mix, chunk_tokens: int | None = None) -> None:
        self.mix = mix
        self.view: View | None = None
        self.drawn = False
        """Whether the answers of the batch at hand are the student's own, which have no labels to learn."""
        self.sums: torch.Tensor | None = None
        self._tokens = chunk_tokens

    def __call__(self, hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor, transform: Transform) -> torch.Tensor:
        """The loss of N tokens: `hidden` [N, size], `targets` int64 [N]; a float32 scalar whose backward may be called once."""
        view, self.view = self.view, None
        if view is None:
            raise RuntimeError("no teacher was asked about this batch")

        mix = replace(self.mix, alpha=1.0) if self.drawn else self.mix

        def part(hidden: torch.Tensor, start: int) -> Measured:
            stop = start + len(hidden)
            return measure(transform(head(hidden)).float(), targets[start:stop], view.rows(start, stop), mix)

        budget = BUDGET if hidden.device.type == "cpu" else ELSEWHERE
        size = self._tokens or max(1, budget // (4 * out_features(head)))
        weights = [weight for weight in head.parameters() if weight.requires_grad]
        loss, self.sums = _InChunks.apply(part, size, torch.is_grad_enabled(), hidden, *weights)  # type: ignore[no-untyped-call]
        return loss


def out_features(head: nn.Module) -> int:
    """How many logits a head makes of a token."""
    found = getattr(head, "out_features", None)
    return int(found) if isinstance(found, int) else int(next(head.parameters()).shape[0])


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, part: Callable[[torch.Tensor, int], Measured], size: int, learning: bool, hidden: torch.Tensor, *weights: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = [tensor for tensor in (hidden, *weights) if learning and tensor.requires_grad]
        of_hidden = torch.zeros_like(hidden) if learning and hidden.requires_grad else None
        of_weights = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights] if learning else []
        loss, sums = torch.zeros((), device=hidden.device), torch.zeros(5, device=hidden.device)
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            own = hidden[rows].detach().requires_grad_(of_hidden is not None)
            with torch.set_grad_enabled(bool(wanted)):
                found = part(own, start)
            if wanted:
                inputs = [own] * (of_hidden is not None) + list(weights)
                gradients = list(torch.autograd.grad(found.loss, inputs, allow_unused=True))
                if of_hidden is not None and (gradient := gradients.pop(0)) is not None:
                    of_hidden[rows] = gradient
                for total, gradient in zip(of_weights, gradients, strict=True):
                    total += 0 if gradient is None else gradient
            loss += found.loss.detach()
            sums += found.sums
        ctx.gradients = (of_hidden, *(total.to(weight.dtype) for total, weight in zip(of_weights, weights, strict=False)))
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the distillation loss gives its gradients once: call backward without retain_graph")
        return (None, None, None, *(None if gradient is None else gradient * outer for gradient in gradients))

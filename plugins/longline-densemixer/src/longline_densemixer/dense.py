"""The gradient of the routing weights over all experts, behind an output that is the model's own.

A mixture puts out y = sum of w_e * E_e(x) over the experts that were picked, so w_e of the others has no gradient. DenseMixer lets
them in with the weight w_e - stop(w_e), which is zero: the output stays as it is, and dL/dw_e is <dL/dy, E_e(x)> for them too.
Experts learn, and x gets gradients, through what was picked alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

Experts = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""The uniform call: hidden [tokens, width], index [tokens, k], weights [tokens, k] -> [tokens, width]."""
Gradient = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""From hidden [tokens, width], dL/dy [tokens, width] and `left` [tokens, experts] to dL/dw [tokens, experts]."""


def let_in(output: Tensor, weights: Tensor, hidden: Tensor, left: Tensor, gradient: Gradient) -> Tensor:
    """Return `output` [..., width] as it is; in the backward pass `weights` [tokens, experts] get the `gradient` of what was left.

    `left` [tokens, experts] says which pairs of token and expert were not picked; `hidden` [..., width] is what experts read.
    """
    made: Tensor = _LetIn.apply(output, weights, hidden.detach().flatten(0, -2), left, gradient)  # type: ignore[no-untyped-call]
    return made


class _LetIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, weights: Tensor, hidden: Tensor, left: Tensor, gradient: Gradient) -> Tensor:
        ctx.save_for_backward(hidden, left)
        ctx.gradient, ctx.kind = gradient, hidden.device.type
        ctx.autocast = torch.is_autocast_enabled(ctx.kind), torch.get_autocast_dtype(ctx.kind)
        ctx.weights_dtype = weights.dtype
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None, None
        hidden, left = ctx.saved_tensors
        on, dtype = ctx.autocast
        with torch.autocast(ctx.kind, dtype=dtype, enabled=on):
            found = ctx.gradient(hidden, grad.reshape(hidden.shape), left)
        return grad, found.to(ctx.weights_dtype), None, None, None


@torch.no_grad()
def products(experts: Experts, hidden: Tensor, grad: Tensor, left: Tensor, pairs: int) -> Tensor:
    """<grad_t, E_e(hidden_t)> [tokens, experts] where `left` is true, 0 elsewhere; `pairs` of token and expert at once, no graph.

    Pairs are in the order of experts, so that each call reads the weights of few.
    """
    expert, token = left.T.nonzero(as_tuple=True)
    found = grad.new_zeros(left.shape, dtype=torch.promote_types(grad.dtype, torch.float32))
    if not len(expert):
        return found
    for some, of in zip(expert.split(pairs), token.split(pairs), strict=True):
        out = experts(hidden[of], some[:, None], hidden.new_ones(len(of), 1)).reshape(len(of), -1)
        found[of, some] = (out.to(found.dtype) * grad[of].to(found.dtype)).sum(-1)
    return found

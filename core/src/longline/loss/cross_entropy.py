"""The cross entropy of logits, in the memory of the logits alone.

torch keeps three tensors of their size: logits, log-probabilities, gradients, and on a CPU most of the time that they take goes
into claiming memory. With a vocabulary of 131,072 a whole step peaked at 4.4 GiB, and at 2.5 with one of them. Here the gradients
are computed with the loss, and written over the logits, some rows at a time, so that they stay in a processor's cache (as Liger
Kernel does on a GPU, Hsu and others, 2024).
"""

from __future__ import annotations

from typing import Any

import torch

from longline.events import IGNORED

CACHE = 2 * 1024 * 1024
"""Bytes of float32 logits at once on a CPU: what a core's cache holds."""
ELSEWHERE = 256 * 1024 * 1024
"""The same on a GPU, where each kernel that is started costs."""


def loss_and_slope(logits: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Sum the cross entropies of N tokens, times `scale`, and overwrite the logits with what the result changes by with each.

    `logits` are float32 [N, vocabulary], `targets` int64 [N], of which -100 counts nothing. Returns a float32 scalar.
    """
    counts = (targets != IGNORED).float() * scale
    places = targets.clamp(min=0)[:, None]
    right = logits.gather(1, places)[:, 0]
    # Taken away before exp, which would overflow.
    highest = logits.amax(1)
    scores = logits.sub_(highest[:, None]).exp_()
    sums = scores.sum(1)
    scores.mul_((counts / sums)[:, None]).scatter_add_(1, places, -counts[:, None])
    return ((sums.log() + highest - right) * counts).sum()


def can_overwrite(logits: torch.Tensor) -> bool:
    """Whether the memory of logits can be had: nobody needs them for a backward pass.

    A compiler fuses the plain loss itself. float16 is left to torch: gradients that small need the loss scale first.
    """
    if torch.compiler.is_compiling() or type(logits) is not torch.Tensor or not torch.is_grad_enabled():
        return False
    made_by = [tensor.grad_fn for tensor in (logits, logits._base) if tensor is not None]
    if None in made_by or any(hasattr(function, "_saved_result") for function in made_by):
        return False  # a leaf, or the output of tanh and its like, which remember it
    return logits.is_contiguous() and logits.dtype in (torch.float32, torch.bfloat16)


def overwriting_loss(logits: torch.Tensor, targets: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The sum of cross entropies over `count`, a float32 scalar whose backward may be called once; takes the logits' memory.

    `logits` [..., vocabulary] are float32 or bfloat16 and `can_overwrite` them, `targets` int64 of the same rows. All arithmetic is
    in float32. Afterwards `logits` is empty, for whoever holds it.
    """
    loss: torch.Tensor = _Overwriting.apply(logits, targets.reshape(-1), 1 / count)  # type: ignore[no-untyped-call]
    logits.data = logits.new_empty((*logits.shape[:-2], 0, logits.shape[-1]))
    return loss


class _Overwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        slopes = logits.detach()
        rows = slopes.view(-1, slopes.shape[-1])
        size = max(1, (CACHE if rows.device.type == "cpu" else ELSEWHERE) // (4 * rows.shape[1]))
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        for start in range(0, len(rows), size):
            part, tokens = rows[start : start + size], targets[start : start + size]
            whole = part.float()  # the same memory where it is float32 already
            total += loss_and_slope(whole, tokens, scale)
            if whole is not part:
                part.copy_(whole)
        ctx.slopes = slopes
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slopes, ctx.slopes = ctx.slopes, None
        if slopes is None:
            raise RuntimeError("this loss gives its gradients once: call backward without retain_graph")
        if outer.device.type != "cpu" or outer != 1:  # asking a GPU would wait for it
            slopes.mul_(outer)
        return slopes, None, None

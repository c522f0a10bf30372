"""Each kernel of Liger against the same arithmetic in plain PyTorch, values and gradients, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from longline_liger import interpreter

Pair = tuple[Callable[..., Any], Callable[..., Any], list[torch.Tensor]]
IGNORED = torch.tensor([3, -100, 0, 95, -100, 17, 42, 5, 9, 11])


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def rms_norm(offset: float) -> Pair:
    from liger_kernel.ops import LigerRMSNormFunction

    def plain(x: Any, weight: Any) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (offset + weight)

    def ours(x: Any, weight: Any) -> Any:
        return LigerRMSNormFunction.apply(x, weight, 1e-6, offset, "gemma" if offset else "llama", False, None)

    return ours, plain, [_random(3, 5, 48), _random(48)]


def layer_norm() -> Pair:
    from liger_kernel.transformers.functional import liger_layer_norm

    def plain(x: Any, weight: Any, bias: Any) -> Any:
        return functional.layer_norm(x, (48,), weight, bias, 1e-6)

    return (lambda x, w, b: liger_layer_norm(x, w, b, 1e-6)), plain, [_random(3, 5, 48), _random(48), _random(48, seed=1)]


def rope() -> Pair:
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    # Rows with positions of their own, as packed rows have.
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3]])
    angles = positions[..., None] / 10000 ** (torch.arange(0, 16, 2) / 16)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()

    def turn(x: Any) -> Any:
        half = torch.cat([-x[..., 8:], x[..., :8]], -1)
        return x * cos[:, None] + half * sin[:, None]

    def ours(q: Any, k: Any) -> Any:
        return torch.cat([part.flatten() for part in liger_rotary_pos_emb(q.clone(), k.clone(), cos, sin)])

    return ours, lambda q, k: torch.cat([turn(q).flatten(), turn(k).flatten()]), [_random(2, 4, 6, 16), _random(2, 2, 6, 16)]


def swiglu() -> Pair:
    from liger_kernel.ops import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply, (lambda a, b: functional.silu(a) * b), [_random(3, 5, 40), _random(3, 5, 40, seed=1)]


def geglu() -> Pair:
    from liger_kernel.ops import LigerGELUMulFunction

    def plain(a: Any, b: Any) -> Any:
        return functional.gelu(a, approximate="tanh") * b

    return LigerGELUMulFunction.apply, plain, [_random(3, 5, 40), _random(3, 5, 40, seed=1)]


def relu_squared() -> Pair:
    from liger_kernel.transformers.relu_squared import LigerReLUSquared

    return LigerReLUSquared(), (lambda x: functional.relu(x).square()), [_random(3, 5, 40)]


def cross_entropy() -> Pair:
    from liger_kernel.transformers.functional import liger_cross_entropy

    def plain(logits: Any) -> Any:
        return functional.cross_entropy(logits, IGNORED, reduction="sum")

    return (lambda x: liger_cross_entropy(x.clone(), IGNORED, reduction="sum")), plain, [_random(10, 96)]


def fused(softcap: float | None, *, scaled: bool = False, reduction: str = "sum") -> Pair:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def plain(hidden: Any, weight: Any) -> Any:
        logits = hidden @ weight.T
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        if not scaled:
            return functional.cross_entropy(logits, IGNORED, reduction=reduction)
        kept = IGNORED != -100
        each = -logits.log_softmax(-1)[kept, IGNORED[kept]]
        return (each * (-each).exp().detach()).sum()

    def ours(hidden: Any, weight: Any) -> Any:
        more = {"use_token_scaling": True} if scaled else {}
        return liger_fused_linear_cross_entropy(hidden, weight, IGNORED, reduction=reduction, softcap=softcap, **more)

    return ours, plain, [_random(10, 32), _random(96, 32)]


def experts() -> Pair:
    from liger_kernel.ops import LigerFusedMoEFunction

    chosen = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 3]], dtype=torch.int32)
    shares = torch.softmax(_random(4, 2), -1)

    def plain(x: Any, up: Any, down: Any) -> Any:
        rows = []
        for token in range(4):
            outs = []
            for share, expert in zip(shares[token], chosen[token].tolist(), strict=True):
                gate, value = (x[token] @ up[expert].T).chunk(2)
                outs.append(share * ((functional.silu(gate) * value) @ down[expert].T))
            rows.append(sum(outs))
        return torch.stack(rows)

    def ours(x: Any, up: Any, down: Any) -> Any:
        return LigerFusedMoEFunction.apply(x, up, down, chosen, shares)

    return ours, plain, [_random(4, 32), _random(4, 32, 32), _random(4, 32, 16)]


KERNELS: dict[str, Callable[[], Pair]] = {
    "rms_norm": lambda: rms_norm(0.0),
    "rms_norm of Gemma": lambda: rms_norm(1.0),
    "layer_norm": layer_norm,
    "rope": rope,
    "swiglu": swiglu,
    "swiglu of experts": experts,
    "geglu": geglu,
    "relu_squared": relu_squared,
    "cross_entropy": cross_entropy,
    "fused_linear_cross_entropy": lambda: fused(None),
    "fused_linear_cross_entropy, mean": lambda: fused(None, reduction="mean"),
    "fused_linear_cross_entropy with softcapping": lambda: fused(5.0),
    "use_token_scaling": lambda: fused(None, scaled=True),
}


def state(name: str) -> str:
    """`same`, `unverified: why`, or `wrong: how`."""
    ours, plain, inputs = KERNELS[name]()
    expected = _values(plain, inputs)
    try:
        with interpreter.complete():
            got = _values(ours, inputs)
    except Exception as error:
        return f"unverified: {type(error).__name__}: {' '.join(str(error).split())[-160:]}"
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        error = float((one - other).norm() / one.norm())
        if error > (1e-5 if index == 0 else 1e-4):
            return f"wrong: {'the value' if index == 0 else f'gradient {index}'} is off by {error:.1e}"
    return "same"


def _values(function: Callable[..., Any], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The value, then the gradient of each input, of a sum with unequal weights."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    weights = torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape)
    (value * weights).sum().backward()
    return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def measure_kernels() -> dict[str, str]:
    """The state of every kernel."""
    return {name: state(name) for name in KERNELS}

"""Which arithmetic is used, and why not another: decided once, when model and trainer are there."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from longline import LonglineError
from longline_cce.chunked import chunked_loss, tokens_for
from longline_cce.needs import HALVES, LIBRARY, needs_cuda, takes_halves, unused

if TYPE_CHECKING:
    from longline_cce.config import CceConfig
    from longline_cce.heads import Product


@dataclass(frozen=True, slots=True)
class Choice:
    """The arithmetic, why it is this one, and its settings."""

    impl: str
    why: str
    settings: dict[str, Any]

    def loss(self, product: Product, targets: torch.Tensor, softcap: float | None) -> torch.Tensor:
        """Sum the cross entropies of `targets` [N]: a float32 scalar."""
        if self.impl == "chunked":
            return chunked_loss(product.pairs, product.bias, targets, softcap=softcap, **self.settings)
        ((hidden, weight),) = product.pairs
        if len(targets) == 1 and int(targets[0]) < 0:
            return (hidden @ weight.to(hidden.dtype).t()).float().sum() * 0  # nothing is learnt; the kernels want a token
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        if self.impl == "cce" and _name(hidden.dtype) not in HALVES:
            text = f"not applied: impl: cce: {takes_halves(_name(hidden.dtype))}"
            raise LonglineError(text, hint="impl: auto, or model.dtype: bfloat16")
        from cut_cross_entropy import linear_cross_entropy

        loss: torch.Tensor = linear_cross_entropy(
            hidden, weight, targets, softcap=softcap, reduction="sum", impl=self.impl, **self.settings
        )
        return loss


@dataclass(frozen=True, slots=True)
class Place:
    """Where training will be: `cuda` or another type, the compute capability there, and what hidden states are multiplied in."""

    device: str
    dtype: torch.dtype
    capability: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Place:
        """Ask the device."""
        return cls(device.type, dtype, torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0))


def choose(options: CceConfig, product: Product, place: Place) -> Choice:
    """Decide.

    Raises:
        LonglineError: what the options name cannot be, or one of them would not be used.
    """
    against = [] if options.impl == "chunked" else _against(options.impl, product, place)
    if options.impl == "auto":
        impl = "chunked" if against else "cce"
        why = against[0] if against else f"CUDA, {_name(place.dtype)}"
    else:
        impl, why = options.impl, "asked for"
        if against:
            hint = "impl: auto takes what fits" if options.impl == "cce" else "impl: chunked"
            raise LonglineError(f"not applied: impl: {impl}: {'; '.join(against)}", hint=hint)
    for option, owner in (("filter_eps", "cce"), ("chunk_tokens", "chunked")):
        if options.asks(option) and impl != owner:
            raise LonglineError(unused(option, owner, impl, why), hint=f"remove {option}")
    if impl == "chunked":
        return Choice(impl, why, {"tokens": options.chunk_tokens or tokens_for(product.pairs[0][1].shape[0])})
    return Choice(impl, why, {"filter_eps": options.filter_eps} if impl == "cce" else {})


def _against(impl: str, product: Product, place: Place) -> list[str]:
    """What speaks against the library, as reasons."""
    if impl in ("auto", "cce"):
        if place.device != "cuda":
            return [needs_cuda(place.device)]
        if place.capability < (8, 0):
            has = ".".join(map(str, place.capability))
            return [f"its kernels need compute capability 8.0, and this device has {has}"]
    against = _library(impl)
    if not product.single:
        what = "no bias" if product.bias is not None else "one weight"
        against.append(f"{LIBRARY} takes {what}, and the head is {product.kind}")
    if impl in ("auto", "cce") and _name(place.dtype) not in HALVES:
        against.append(takes_halves(_name(place.dtype)))
    return against


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _library(impl: str) -> list[str]:
    """Why the installed library cannot be used, or nothing; it imports Triton."""
    try:
        from cut_cross_entropy import linear_cross_entropy

        found = version(LIBRARY)
    except (ImportError, PackageNotFoundError) as error:
        return [f"{LIBRARY} cannot be imported: {error}"]
    needed = {"softcap", "reduction", "impl", *(("filter_eps",) if impl != "torch_compile" else ())}
    lacking = sorted(needed - inspect.signature(linear_cross_entropy).parameters.keys())
    return [f"{LIBRARY} {found} takes no {', '.join(lacking)}"] if lacking else []

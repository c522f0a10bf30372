"""What an output head computes, as products and a bias: a linear layer, alone or under what peft puts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from longline import LonglineError
from longline_cce import upstream
from longline_cce.needs import REMOVE

if TYPE_CHECKING:
    from longline_cce.chunked import Pair


@dataclass(frozen=True, slots=True)
class Product:
    """The sum of hidden @ weight.T over `pairs`, plus `bias`; `kind` says for people what it was read from."""

    pairs: list[Pair]
    bias: torch.Tensor | None
    kind: str

    def scaled(self, scale: float) -> Product:
        """The same times a number, which is multiplied into what is small."""
        if scale == 1.0:
            return self
        pairs = [(hidden * scale, weight) for hidden, weight in self.pairs]
        return Product(pairs, None if self.bias is None else self.bias * scale, self.kind)

    @property
    def single(self) -> bool:
        """Whether it is one product and no bias."""
        return len(self.pairs) == 1 and self.bias is None


def read(head: Any, hidden: torch.Tensor) -> Product:
    """What `head` computes of hidden states [N, size], exactly, with gradients to all that it is made of.

    Raises:
        LonglineError: the head is none of those that can be read; it is named.
    """
    wrappers = upstream.wrappers()

    if isinstance(head, wrappers.copy):
        active = not head.disable_adapters and head.active_adapters
        return read(head.modules_to_save[active[0]] if active else head.original_module, hidden)
    if isinstance(head, wrappers.rows):
        return _with_tokens(head.token_adapter, hidden)
    if type(head) is wrappers.lora:
        return _with_lora(head, hidden)
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise refusal(
            f"it is a {type(head).__name__}, not a plain linear layer", "leave the output head as it is, or " + REMOVE
        )
    if not head.weight.is_floating_point():
        raise refusal(f"its weight is {head.weight.dtype}", "leave lm_head out of the quantisation, or " + REMOVE)
    if hasattr(head.weight, "placements"):
        raise refusal("its weight is spread over ranks", "train without tensor parallelism, or " + REMOVE)
    return Product([(hidden, head.weight)], head.bias, "linear with a bias" if head.bias is not None else "linear")


def _with_tokens(layer: Any, hidden: torch.Tensor) -> Product:
    """Some rows of the weight are trained: peft puts them into a copy of it."""
    base = read(layer.base_layer, hidden)
    if layer.disable_adapters or layer.merged or not layer.active_adapters:
        return base
    merged = layer.get_merged_weights(layer.active_adapters)
    return Product([(hidden, merged)], None, f"{base.kind} with trained tokens")  # peft leaves a bias out as well


def _with_lora(layer: Any, hidden: torch.Tensor) -> Product:
    """The base's product, and one of rank r for each active adapter."""
    base = read(layer.base_layer, hidden)
    if layer.disable_adapters or layer.merged:
        return base
    pairs = list(base.pairs)
    for name in (name for name in layer.active_adapters if name in layer.lora_A):
        if name in layer.lora_variant:
            variant = type(layer.lora_variant[name]).__name__.removesuffix("LinearVariant")
            raise refusal(f"it has {variant}, which is no sum of products", "adapter.type: lora, or leave lm_head out of it")
        down, up = layer.lora_A[name], layer.lora_B[name]
        if up.bias is not None:
            raise refusal("its adapter has lora_bias", "adapter.lora_bias: false, or " + REMOVE)
        inner = down(layer.lora_dropout[name](hidden.to(down.weight.dtype))) * layer.scaling[name]
        pairs.append((inner, up.weight))
    return Product(pairs, base.bias, f"{base.kind} with LoRA" if len(pairs) > 1 else base.kind)


def refusal(why: str, hint: str) -> LonglineError:
    """The error for a head that is not what this loss can compute."""
    return LonglineError(f"not applied: the loss at the output head cannot be computed: {why}", hint=hint)

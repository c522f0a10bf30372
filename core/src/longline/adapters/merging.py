"""Adding an adapter to its base, and seeing that the sum is the model that it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from longline.errors import ModelError
from longline.weights import likeness

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def merge(model: PreTrainedModel, tokens: torch.Tensor) -> PreTrainedModel:
    """The model with its adapter in its weights; what it makes of `tokens` is compared.

    Raises:
        ModelError: peft cannot merge it, or the merged model is another one.
    """
    whole: Any = model
    limit, before = likeness.tolerance(model), likeness.logits(model, tokens)
    _untie(model)
    try:
        merged: PreTrainedModel = whole.merge_and_unload()
    except (ValueError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ModelError(f"this adapter cannot be merged: {error}", hint="use it beside its base") from error
    apart = likeness.distance(before, likeness.logits(merged, tokens))
    if apart > limit:
        text = f"merged with its base, the adapter is another model: logits are off by {apart:.2g} of their spread"
        raise ModelError(text, hint="use the adapter beside its base; nothing was written")
    return merged


def _untie(model: PreTrainedModel) -> None:
    """Give every module weights of its own where an adapter would change those that it shares with another."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            owners.setdefault(id(weight), []).append((module, name))
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
    changed = {id(layer.get_base_layer()) for layer in layers}
    for shared in owners.values():
        if len(shared) == 1 or not any(id(module) in changed for module, _ in shared):
            continue
        for module, name in shared[1:]:
            weight = getattr(module, name)
            setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))
        config = model.config
        for part in {id(config): config, id(config.get_text_config()): config.get_text_config()}.values():
            part.tie_word_embeddings = False

"""Adapters that start from something else than zero: what they took from the base is kept, and saved with them.

PiSSA, OLoRA and their kind move a part of the base's weights into the adapter: W = W' + s B0 A0. What is learnt is then
W' + s B A, and an adapter that is saved as it is belongs to a base that nobody has; a random start could not even be repeated.
So it is saved as an ordinary one of twice the rank, s [B, -B0] [A; A0] on top of W: that is the same model, for every tool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longline.errors import ModelError
from longline.weights import likeness

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER = "default"
FACTORS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B")
Start = dict[str, torch.Tensor]
"""The factors A0 and B0, float32 on the CPU, by the names that a saved adapter gives them; empty if the base is as it came."""
PLAIN = (True, "gaussian")
"""Starts whose product is zero by definition."""
OTHERS = "use pissa, pissa_niter_16 or olora, which start as the base, or leave init_lora_weights out"


def settle(model: PreTrainedModel, before: torch.Tensor | None, tokens: torch.Tensor, *, referred: bool) -> Start:
    """Look at a model that an adapter was just put on: `before` are its logits of `tokens` without it.

    From here on peft knows the adapter as an ordinary one, so that a copy of it does not change the base again. `referred` says
    whether the method compares with the base.

    Raises:
        ModelError: the start changes the base so that no saved adapter can say it, or the model isn't its base and `referred`.
    """
    whole: Any = model
    config = whole.peft_config[ADAPTER]
    if before is None:
        if config.init_lora_weights in PLAIN:
            return {}
        text = f"adapter.init_lora_weights: {config.init_lora_weights}: the model cannot be asked where it lies"
        raise ModelError(f"{text}, so it cannot be seen that it starts as its base", hint="use another attn_implementation")
    apart = likeness.distance(before, likeness.logits(model, tokens))
    limit = likeness.tolerance(model)
    start = factors(model) if _adds(whole) else {}
    if start:
        with whole.disable_adapter():
            changed = not torch.equal(likeness.logits(model, tokens), before)
        if changed and (apart > limit or getattr(model, "is_quantized", False) or not _convertible(whole)):
            text = f"adapter.init_lora_weights: {config.init_lora_weights} makes another base, which no saved adapter can hold"
            raise ModelError(text, hint=OTHERS)
        start = start if changed else {}
    if apart > limit and referred:
        text = f"adapter: with init_lora_weights: {config.init_lora_weights} the model is not its base before the first step"
        raise ModelError(f"{text}: its logits are off by {apart:.2g} of their spread", hint=OTHERS)
    if start:
        config.init_lora_weights = True
    return start


def _adds(model: Any) -> bool:
    """Whether some product of the adapter's factors is not zero."""
    layers = (module for module in model.modules() if ADAPTER in getattr(module, "lora_A", {}))
    return any(bool(layer.lora_A[ADAPTER].weight.any() and layer.lora_B[ADAPTER].weight.any()) for layer in layers)


def _convertible(model: Any) -> bool:
    """Whether factors have the rank that they are told to have; those of stacked experts have it once for each."""
    layers = (module for module in model.modules() if ADAPTER in getattr(module, "lora_A", {}))
    return all(len(layer.lora_A[ADAPTER].weight) == layer.r[ADAPTER] for layer in layers)


def factors(model: PreTrainedModel) -> Start:
    """A copy of the adapter's factors."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: value.detach().float().cpu().clone() for name, value in found.items() if _is_factor(name)}


def _is_factor(name: str) -> bool:
    return any(part in name for part in FACTORS) and not name.endswith(".bias")


def _is_first(name: str) -> bool:
    """Whether it is the factor that meets the input, A."""
    return name.rpartition("lora_")[2].startswith(("A", "embedding_A"))


def pack(folder: Path, start: Mapping[str, torch.Tensor]) -> None:
    """Make the adapter that was saved in `folder` an ordinary one for the base as it came."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    for name, began in start.items():
        first = _is_first(name)
        weights[name] = torch.cat([weights[name], (began if first else -began).to(weights[name])], dim=0 if first else 1)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    # The scaling stays: alpha / r, or alpha / sqrt(r) with rslora.
    factor = 2**0.5 if config["use_rslora"] else 2
    config.update(init_lora_weights=True, r=2 * config["r"], lora_alpha=factor * config["lora_alpha"])
    config["rank_pattern"] = {name: 2 * rank for name, rank in (config["rank_pattern"] or {}).items()}
    config["alpha_pattern"] = {name: factor * alpha for name, alpha in (config["alpha_pattern"] or {}).items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def unpack(model: Any, folder: Path, start: Start) -> bool:
    """Load what `pack` made of this model's adapter, and make `start` what it began from; False if the folder holds no such."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    if not start or not (folder / WEIGHTS).is_file():
        return False
    weights, began = load_file(folder / WEIGHTS), {}
    for name, own in start.items():
        both = weights[name].chunk(2, dim=0 if _is_first(name) else 1)
        if both[0].shape != own.shape:
            return False
        weights[name], began[name] = both[0].contiguous(), (both[1] if _is_first(name) else -both[1]).float().contiguous()
    if any(not torch.equal(began[name], start[name]) for name in start):
        _begin(model, began)
        start.update(began)
    set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)
    return True


def _begin(model: Any, began: Mapping[str, torch.Tensor]) -> None:
    """Take from the base what `began` stands for in place of the start that every adapter of the model holds now."""
    for name, layer in model.named_modules():
        if ADAPTER not in getattr(layer, "lora_A", {}):
            continue
        taken = layer.get_delta_weight(ADAPTER)
        for adapter in layer.lora_A:  # the frozen copy, too
            for part in (layer.lora_A, layer.lora_B):
                part[adapter].weight.data.copy_(began[f"{name}.lora_{'A' if part is layer.lora_A else 'B'}.weight"])
        weight = layer.get_base_layer().weight
        weight.data += (taken - layer.get_delta_weight(ADAPTER)).to(weight.dtype)

"""How much arithmetic training needs, counted from the model: the numerator of MFU.

For every token: 6 operations a trained weight (a multiplication and an addition in the forward pass, twice that in the backward
pass), and 4 a frozen one, since no gradient of its own is computed: so LoRA is not credited with work that it saves. Attention
adds 12 x layers x width x length for each token, as in appendix B of the PaLM paper (Chowdhery et al. 2022, arXiv:2204.02311);
like there, and in nanoGPT and torchtitan, the masked half of causal attention is counted. What gradient checkpointing computes
again is not needed by the model and not counted, nor is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ATTENTION = "attention"
EXPERTS = (("num_experts", "num_local_experts", "n_routed_experts"), ("num_experts_per_tok", "moe_topk", "moe_top_k"))


class UnknownError(Exception):
    """Why there is no MFU; shown to the person."""


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """What one token costs. `trained` and `frozen` are weights that every token is multiplied with."""

    trained: int
    frozen: int
    layers: int
    width: int
    reference: bool = False

    @property
    def per_token(self) -> int:
        """Floating-point operations a token, attention left out."""
        return 6 * self.trained + 4 * self.frozen + 2 * (self.trained + self.frozen) * self.reference

    @property
    def per_square(self) -> int:
        """Operations of attention for each unit of a sequence's squared length."""
        return (12 + 4 * self.reference) * self.layers * self.width

    def total(self, tokens: float, squares: float) -> float:
        """Operations for `tokens` tokens in sequences whose squared lengths add up to `squares`."""
        return self.per_token * tokens + self.per_square * squares


def count(model: Any, *, reference: bool = False) -> ModelFlops:
    """Count the weights of a model that is not sharded yet; `reference` says that one runs forward over the same tokens.

    Raises UnknownError: the model's config doesn't say what is needed.
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
    hidden = getattr(config, "hidden_size", None)
    if not heads or not layers or not hidden:
        raise UnknownError(f"the config of {type(model).__name__} does not name its layers and heads")
    kinds = getattr(config, "layer_types", None)
    attending = sum(ATTENTION in kind and "linear" not in kind for kind in kinds) if kinds else layers
    width = heads * (getattr(config, "head_dim", None) or hidden // heads)
    trained, frozen = _weights(model, config)
    return ModelFlops(trained, frozen, attending, width, reference)


def _weights(model: Any, config: Any) -> tuple[int, int]:
    """Trained and frozen weights of matrices that a token is multiplied with; looking up an embedding is no arithmetic."""
    from torch import nn

    lookups = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    lookups -= {id(getattr(head, "weight", None))}
    sums = {True: 0.0, False: 0.0}
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or id(weight) in lookups or ".original_module." in name:
            continue
        used = _share_of_experts(config) if ".experts." in name else 1.0
        sums[weight.requires_grad] += used * _size(weight)
    return round(sums[True]), round(sums[False])


def _size(weight: Any) -> int:
    """The number of weights; bitsandbytes packs two of four bits into one byte and keeps the shape beside them."""
    shape = getattr(getattr(weight, "quant_state", None), "shape", None)
    return int(shape.numel() if shape is not None else weight.numel())


def _share_of_experts(config: Any) -> float:
    total, active = (next((getattr(config, name) for name in names if getattr(config, name, None)), None) for names in EXPERTS)
    if not total or not active:
        raise UnknownError("the config does not say how many experts a token is sent to")
    return float(active) / float(total)


def squared_lengths(inputs: Mapping[str, Any]) -> Any:
    """Return the sum of the squared lengths of the sequences in a batch, as a tensor on its device; 0 when nothing tells them.

    Nothing waits for the device. Positions that restart at each sample of a pack count 0, 1, 2 ...: the sum of 2p + 1 is the
    square; the padding behind a pack counts as one more sequence. Rows without either are taken as full.
    """
    masks = [mask for name, mask in inputs.items() if name.endswith("attention_mask") and not name.startswith("prompt")]
    masks = [mask for mask in masks if getattr(mask, "ndim", 0) == 2]
    if masks:
        return sum((mask.sum(-1).double() ** 2).sum() for mask in masks)
    positions = inputs.get("position_ids")
    if positions is not None:
        return (2 * positions + 1).sum().double()
    ids = inputs.get("input_ids")
    return 0.0 if ids is None else float(ids.numel() * ids.shape[-1])

"""The weights in the files of a saved model beside those in memory, bit for bit: cheap enough for a model of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

WHOLE = 1 << 20
"""So many values are compared whole; of more the first and the last rows are read."""


def compared(model: PreTrainedModel, folder: Path) -> tuple[int, list[str]]:
    """How many tensors of a folder's files are in memory under the same name and shape, and which of them differ.

    A library may rename some when it saves, an adapter is saved in another form where it changed the base when it began, and other
    ranks hold parts: those are passed over.
    """
    own, count, other = _named(model), 0, []
    for name, parts in _stored(folder):
        tensor = own.get(name)
        if tensor is not None and not isinstance(tensor, DTensor) and list(tensor.shape) == parts.get_shape():
            count += 1
            if not all(same(tensor[cut], parts[cut]) for cut in _cuts(tensor)):
                other.append(name)
    return count, other


def unlike(model: PreTrainedModel, again: PreTrainedModel) -> list[str]:
    """The names of parameters that differ in a model that was loaded again: all, or those that are trained under an adapter."""
    loaded, adapter = dict(again.named_parameters(remove_duplicate=False)), hasattr(model, "peft_config")
    return [
        name
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if (tensor.requires_grad or not adapter) and name in loaded and not isinstance(tensor, DTensor)
        if tensor.shape == loaded[name].shape and not same(tensor, loaded[name])
    ]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of a shape hold the same bits; another type of number is converted to that of the first."""
    one, other = (tensor.detach().cpu().contiguous().flatten() for tensor in (one, other.to(one.dtype)))
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))  # NaN is NaN


def _named(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights by the names that files have."""
    from peft import PeftModel, get_peft_model_state_dict

    from longline.adapters.start import ADAPTER

    found: dict[str, Any] = (
        get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
        if isinstance(model, PeftModel)
        else model.state_dict()
    )
    return found


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no mapping
                yield name, stored.get_slice(name)


def _cuts(tensor: torch.Tensor) -> list[Any]:
    if tensor.ndim == 0:
        return [...]
    return [slice(None)] if tensor.numel() <= WHOLE else [slice(0, 1), slice(len(tensor) - 1, None)]

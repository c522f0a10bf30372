"""Masks: which weights of a model are pruned, where their zeros are, which pattern these have, and how they are held."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from longline import LonglineError
from longline.errors import did_you_mean
from longline_sparsity.config import PATTERN, REGEX

if TYPE_CHECKING:
    from longline_sparsity.config import SparsityConfig

Masks = dict[str, torch.Tensor]
"""By the name of a weight: true where it may be something other than zero, in its shape."""
RATIOS = ("1:4", "2:4", "4:8")
"""Patterns that are looked for, the sparser ones first."""
SIDES = (64, 32, 16, 8, 4)


def find(model: Any, options: SparsityConfig, targets: Sequence[str] | None) -> Masks:
    """The masks of the pruned weights of a model that was just loaded, of those that targets name where there are any.

    Raises LonglineError where they look and there are no zeros, or others than the pattern says.
    """
    least = options.least if targets is None else 0.0
    named = _named_by(model, targets, options.ignore)
    masks: Masks = {}
    for name, weight in model.named_parameters():
        if name not in named:
            continue
        if not weight.dtype.is_floating_point:
            raise LonglineError(f"{name} is quantised to {weight.dtype}: its zeros cannot be kept", hint="load it unquantised")
        mask = weight.detach() != 0
        if sparsity(mask) >= max(least, 1 / mask.numel()):
            masks[name] = mask
    for target in targets or ():
        meant = [name for name, names in named.items() if _is(target, names)]
        if masks.keys().isdisjoint(meant):
            text = f"{target!r}: no zeros to keep in {meant[0] if meant else 'what ignore leaves of it'}"
            more = f" and {len(meant) - 1} more" if len(meant) > 1 else ""
            raise LonglineError(text + more, hint="prune the model first, or name others")
    if not masks:
        text = f"no weight of the model has {options.least:.0%} zeros: it is not pruned, so there is nothing to keep"
        raise LonglineError(text, hint="model.path: a pruned model; or remove sparsity from plugins:")
    for name, mask in masks.items():
        _refuse_other(name, mask, options.pattern)
    return masks


def _named_by(model: Any, targets: Sequence[str] | None, ignored: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The matrices that targets name and `ignored` does not, with what each may be called.

    Raises LonglineError for a word that names none.
    """
    embedding = model.get_input_embeddings().weight
    every = {name: _names_of(model, name) for name, weight in model.named_parameters() if weight.dim() >= 2}
    for target in (*(targets or ()), *ignored):
        if not any(_is(target, names) for names in every.values()):
            words = {word for names in every.values() for word in names}
            hint = did_you_mean(target.removeprefix(REGEX), words, "`re:` begins a regular expression over the whole name")
            raise LonglineError(f"{target!r} is none of the model's matrices", hint=hint)
    others = {name for name, weight in model.named_parameters() if targets is None and weight is embedding}
    return {
        name: names
        for name, names in every.items()
        if name not in others
        and (targets is None or any(_is(target, names) for target in targets))
        and not any(_is(target, names) for target in ignored)
    }


def _names_of(model: Any, name: str) -> tuple[str, ...]:
    """What a weight may be called: its own name, its module's, the last part of that, and the module's class."""
    owner = name.rpartition(".")[0]
    return name, owner, owner.rpartition(".")[2], type(model.get_submodule(owner)).__name__


def _is(target: str, names: tuple[str, ...]) -> bool:
    if target.startswith(REGEX):
        return any(re.match(target.removeprefix(REGEX), name) for name in names[:2])
    return target in names


def sparsity(mask: torch.Tensor) -> float:
    """The share of zeros."""
    return 1 - int(mask.count_nonzero()) / max(1, mask.numel())


def pattern_of(mask: torch.Tensor) -> str:
    """The strictest pattern that the zeros of a mask have: `1:4`, `2:4`, `4:8`, `block` with a side, or `unstructured`."""
    for pattern in (*RATIOS, *(f"block{side}" for side in SIDES)):
        if has(mask, pattern):
            return pattern
    return "unstructured"


def has(mask: torch.Tensor, pattern: str) -> bool:
    """Whether the zeros of a mask have a pattern."""
    match = PATTERN.fullmatch(pattern)
    if match is None or pattern in ("auto", "unstructured"):
        return True
    if match["of"]:
        of = int(match["of"])
        return mask.shape[-1] % of == 0 and int(mask.unflatten(-1, (-1, of)).sum(-1).max()) <= int(match["kept"])
    side = int(match["side"])
    if mask.shape[-1] % side or mask.shape[-2] % side:
        return False
    kept = mask.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).sum((-1, -3))
    # Inside of a block that is kept, a number may be zero by chance.
    return bool(((kept == 0) | (kept > 0.99 * side * side)).all()) and bool((kept == 0).any())


def _refuse_other(name: str, mask: torch.Tensor, pattern: str) -> None:
    if not has(mask, pattern):
        found = f"{pattern_of(mask)}, {sparsity(mask):.1%} zeros"
        raise LonglineError(f"the zeros of {name} are not {pattern}: {found}", hint=f"pattern: {pattern_of(mask)}, or auto")


# --- holding --------------------------------------------------------------------------------------------------------------------


def placed(masks: Mapping[str, torch.Tensor], model: Any) -> Masks:
    """The masks as this rank has the weights: on their device, and cut as they are; a collective where weights are sharded."""
    here: Masks = {}
    for name, weight in _named(model, masks):
        mask = masks[bare(name)].to(weight.device)
        if hasattr(weight, "to_local"):
            from torch.distributed.tensor import distribute_tensor

            # From rank 0: the others may have loaded no weights.
            mask = distribute_tensor(mask, weight.device_mesh, weight.placements).to_local()
        here[bare(name)] = mask
    if lost := masks.keys() - here.keys():
        raise LonglineError(f"the trained model has no {min(lost)}, whose zeros are to be kept")
    return here


WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and checkpointing put into the names of weights."""


def bare(name: str) -> str:
    """The name of a weight without what wraps its module."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _named(model: Any, masks: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, weight) for name, weight in model.named_parameters() if bare(name) in masks)


def hold(model: Any, here: Mapping[str, torch.Tensor], *, gradients: bool = False) -> None:
    """Set to zero what of the weights, or of their gradients, is masked."""
    for name, weight in _named(model, here):
        value = weight.grad if gradients else weight.detach()
        if value is not None:
            local(value).masked_fill_(~here[bare(name)], 0)


def local(tensor: Any) -> torch.Tensor:
    """The part of a tensor that this rank has; it shares memory with the tensor."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def zeros(model: Any, here: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """By the name of a masked weight: how many numbers of this rank's part are zero, and how many there are."""
    found = {}
    for name, weight in _named(model, here):
        part = local(weight.detach())
        found[bare(name)] = (part.numel() - int(part.count_nonzero()), part.numel())
    return found

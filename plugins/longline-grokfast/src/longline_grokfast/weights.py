"""Which weights are filtered, and their gradients on this rank."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from longline import LonglineError
from longline.errors import did_you_mean

if TYPE_CHECKING:
    from longline_grokfast.config import GrokfastConfig

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and checkpointing put into the names of weights."""


def bare(name: str) -> str:
    """The name of a weight without what wraps its module."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def gradients(model: Any, options: GrokfastConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Names, and the gradients of this rank's part of the weights, to be changed in place; weights without one are left out.

    Raises LonglineError for a sparse gradient.
    """
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and options.takes(bare(name)):
            gradient = parameter.grad
            if gradient.layout is not torch.strided:
                raise LonglineError(f"the gradient of {name} is {gradient.layout}", hint="name it under exclude")
            yield bare(name), gradient.to_local() if hasattr(gradient, "to_local") else gradient


def overflown(held: Sequence[tuple[str, torch.Tensor]], accelerator: Any) -> bool:
    """Whether float16 has overflown on some rank, so that its scaler skips the step; a collective where there is a scaler.

    Averages would be infinite for ever after.
    """
    if accelerator.scaler is None:
        return False
    finite = [torch.isfinite(gradient).all() for _, gradient in held]
    worst = torch.stack([~one for one in finite]).any() if finite else torch.zeros((), dtype=torch.bool)
    return bool(accelerator.reduce(worst.to(accelerator.device, torch.float32), reduction="sum").item())


def taken(model: Any, options: GrokfastConfig) -> list[tuple[str, int]]:
    """The trained weights that are filtered, with their numbers of elements.

    Raises LonglineError when there are none, or for a pattern that is found in none of the trained weights.
    """
    trained = {bare(name): parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = [bare(name) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    for option in ("include", "exclude"):
        for pattern in getattr(options, option) or ():
            _refuse_unfound(option, pattern, trained, frozen)
    found = [(name, size) for name, size in trained.items() if options.takes(name)]
    if not found:
        text = f"not applied: include and exclude leave none of the {len(trained)} trained tensors"
        raise LonglineError(text, hint="remove one of them, or grokfast from plugins:")
    return found


def _refuse_unfound(option: str, pattern: str, trained: Mapping[str, int], frozen: Sequence[str]) -> None:
    """Raise LonglineError for a pattern that no trained weight's name has in it."""
    if any(re.search(pattern, name) for name in trained):
        return
    if stopped := [name for name in frozen if re.search(pattern, name)]:
        why = f"what has it in its name does not train: {stopped[0]}"
    else:
        why = "no weight has it in its name"
    words = dict.fromkeys(word for name in trained for word in (*name.split("."), name) if not word.isdigit())
    hint = did_you_mean(pattern, words, f"weights that train are named as {next(iter(trained), 'none')}")
    raise LonglineError(f"not applied: {option}: {pattern!r}: {why}", hint=hint)


def told(found: Sequence[tuple[str, int]], model: Any, options: GrokfastConfig) -> tuple[str, str]:
    """How many weights are filtered and what of them is kept, and why, for a fact of the run."""
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    dtypes = {parameter.dtype.itemsize for parameter in model.parameters() if parameter.requires_grad}
    each = 4 if options.filter == "ema" else 4 + options.window * max(dtypes)
    size = sum(size for _, size in found) * each
    why = "all that train" if len(found) == trained else "as include and exclude say"
    return f"gradients of {len(found)} of {trained} trained tensors, keeps {_readable(size)} of them", why


def _readable(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024  # type: ignore[assignment]
    return f"{size:.3g} {unit}"

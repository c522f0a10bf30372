"""A model in memory, lent to the harness and given back as it was: modes, adapter, random numbers, tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from longline import LonglineError
from longline_lm_eval.ranks import in_order
from longline_lm_eval.upstream import in_own_dtype

if TYPE_CHECKING:
    from longline_lm_eval.config import LmEvalConfig
    from longline_lm_eval.ranks import Team

WITHOUT_MEMORY_TO_ASK = 8
"""Requests at a time where the harness cannot find out by trying: on a CPU it would take all memory, and with sharded weights each
rank could come to another number."""


@contextmanager
def lent(model: Any, *, merged: bool = False) -> Iterator[None]:
    """While it lasts the model may be put into another mode, and random numbers be drawn; with `merged` its adapter is added."""
    import numpy as np
    import torch

    modes = [(module, module.training) for module in model.modules()]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        with in_own_dtype(model), _merged(model) if merged else nullcontext():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
            torch.cuda.empty_cache()  # training had its memory; what the harness kept is in its way
        for module, training in modes:
            module.training = training


@contextmanager
def _merged(model: Any) -> Iterator[None]:
    """The adapter in the weights; afterwards they have the bits that they had: adding and taking off is rounded twice."""
    import torch

    if not hasattr(model, "merge_adapter"):
        raise LonglineError("merged: this model has no adapter", hint="leave merged out")
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    layers = [module for module in model.modules() if hasattr(module, "get_base_layer")]
    weights = {id(weight): weight for layer in layers for weight in layer.get_base_layer().parameters(recurse=False)}
    if any(owners.get(key, 0) > 1 for key in weights):
        hint = "merged: false, and the adapter stays beside its base"
        raise LonglineError("merged: the adapter changes a weight that another part of the model shares", hint=hint)
    kept = [(weight, weight.detach().to("cpu", copy=True)) for weight in weights.values()]
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()
        with torch.no_grad():
            for weight, value in kept:
                weight.copy_(value)


def wrapped(model: Any, tokenizer: Any, options: LmEvalConfig, team: Team) -> Any:
    """The model as the harness takes one, on the device and in the dtype that it has, and with a tokenizer that it may change."""
    from lm_eval.models.huggingface import HFLM

    class InMemory(HFLM):
        """Shares the rows of a task among the ranks of a run."""

        alone = not team.shares

        @property
        def rank(self) -> int:
            """The share of this rank."""
            return 0 if self.alone else team.rank

        @property
        def world_size(self) -> int:
            """How many shares there are."""
            return 1 if self.alone else team.size

        def all_gather(self, tensor: Any) -> Any:
            """A number of every rank."""
            import torch

            told = team.exchange("numbers", tensor.reshape(-1).tolist())
            return torch.tensor([number for numbers in told for number in numbers], device=tensor.device)

        def gather_object(self, obj: Any, dst: int = 0) -> Any:
            """An object of every rank, for one of them."""
            told = team.exchange("objects", obj)
            return in_order(told) if team.rank == dst else None

        def barrier(self) -> None:
            """Wait for the others."""
            team.exchange("barrier")

    size = options.batch_size
    if size == "auto" and (model.device.type == "cpu" or (team.size > 1 and not team.shares)):
        size = WITHOUT_MEMORY_TO_ASK
    return InMemory(pretrained=model, tokenizer=deepcopy(tokenizer), batch_size=size)

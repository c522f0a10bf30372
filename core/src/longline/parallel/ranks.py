"""Ranks: which one this is, and what they do together. Torch-free at import: a command that trains nothing never pays for it.

A rank is told by the environment that torchrun and `accelerate launch` set (RANK, LOCAL_RANK, WORLD_SIZE).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from longline.errors import ConfigError


def rank() -> int:
    """Return this process's place among all ranks, from 0."""
    return _environment_int("RANK", 0)


def world_size() -> int:
    """Return the number of ranks, over all nodes."""
    return _environment_int("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Return the number of ranks on this machine; all of them, where the launcher does not tell."""
    return _environment_int("LOCAL_WORLD_SIZE", world_size())


def under_launcher() -> bool:
    """Tell whether torchrun or accelerate launch started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _environment_int(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    try:
        return int(value) if value else default
    except ValueError:
        raise ConfigError(f"environment variable {name} is {value!r}, not a number", hint="torchrun sets it") from None


@contextmanager
def main_rank_first() -> Iterator[None]:
    """Let rank 0 run the block before the others, so that they find what it cached."""
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    if rank() != 0:
        dist.barrier()
    try:
        yield
    finally:
        if rank() == 0:
            dist.barrier()


def gathered(value: Any) -> list[Any]:
    """Return the `value` of every rank, by rank; a collective of picklable objects, and this rank's alone without others."""
    import torch.distributed as dist

    if world_size() == 1 or not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def most(number: int) -> int:
    """Return the greatest `number` of all ranks; a collective, so every rank must call it at the same point."""
    if world_size() == 1:
        return number
    import torch
    import torch.distributed as dist

    # NCCL reduces only what lies on a GPU.
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([number], device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())

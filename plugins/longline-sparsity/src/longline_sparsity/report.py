"""What is told of zeros: how many there are by kind of module, which pattern they have, and that they are still there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longline_sparsity import masks as zeros

COLUMNS = ("module", "weights", "zeros", "pattern")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a mask holds: the kind of its module, such as q_proj, its numbers, how many of them are zero, and their pattern."""

    kind: str
    numbers: int
    zeros: int
    pattern: str


def count(masks: Mapping[str, torch.Tensor]) -> list[Counted]:
    """Count the zeros of each mask."""
    return [
        Counted(
            name.removesuffix(".weight").rpartition(".")[2],
            mask.numel(),
            mask.numel() - int(mask.count_nonzero()),
            zeros.pattern_of(mask),
        )
        for name, mask in masks.items()
    ]


def rows(counted: Sequence[Counted]) -> Iterator[tuple[str, int, str, str]]:
    """For each kind of module: how many weights have a mask, the share of zeros in them, and their patterns."""
    for kind in dict.fromkeys(each.kind for each in counted):
        found = [each for each in counted if each.kind == kind]
        yield kind, len(found), _share(found), _patterns(found)


def told(counted: Sequence[Counted]) -> tuple[str, str]:
    """How many zeros are kept, of which pattern, and why, for a fact of the run."""
    kinds = ", ".join(dict.fromkeys(each.kind for each in counted))
    return f"keeps {_share(counted)} zeros in {len(counted)} tensors, {_patterns(counted)}", f"found in {kinds}"


def _patterns(found: Sequence[Counted]) -> str:
    return ", ".join(dict.fromkeys(each.pattern for each in found))


def _share(found: Sequence[Counted]) -> str:
    return f"{sum(each.zeros for each in found) / sum(each.numbers for each in found):.2%}"


def share(trainer: Any, here: Mapping[str, torch.Tensor]) -> float:
    """The share of zeros in the weights that have masks, over all ranks; every rank must call it."""
    counts = list(zeros.zeros(trainer.model, here).values())
    summed = torch.tensor([sum(part) for part in zip(*counts, strict=True)], dtype=torch.int64)
    whole = trainer.accelerator.reduce(summed.to(trainer.accelerator.device), reduction="sum")
    return float(whole[0] / whole[1])

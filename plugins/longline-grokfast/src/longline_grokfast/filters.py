"""The filters: what of the gradients of one weight is slow. State is kept by names, on the device of the gradients.

A rank filters the gradients that it has: both filters are sums, so the shards of one rank come out as parts of the whole would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from longline import LonglineError

if TYPE_CHECKING:
    from longline_grokfast.config import GrokfastConfig


class SlowPart(ABC):
    """Keeps something of the gradients of each weight; a weight begins with its first gradient, whenever that comes."""

    @abstractmethod
    def take(self, name: str, gradient: torch.Tensor) -> torch.Tensor | None:
        """Take in the next gradient of a weight; return the slow part in float32 or better, or None while there is none."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values and tensors."""

    @abstractmethod
    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on with what `state` returned; tensors come on the CPU."""


def make(options: GrokfastConfig) -> SlowPart:
    """The filter that the options name."""
    if options.filter == "ema":
        return Exponential(options.alpha)
    return Windowed(options.window, mean=options.reduce == "mean", warmup=options.warmup)


class Exponential(SlowPart):
    """average <- alpha * average + (1 - alpha) * gradient, from the first gradient on."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.averages: dict[str, torch.Tensor] = {}

    def take(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """The average with this gradient in it."""
        average = self.averages.get(name)
        if average is None:
            # In bfloat16 the small share of a new gradient would be rounded away.
            average = gradient.to(_wide(gradient), copy=True)
        else:
            average = _fitting(name, average, gradient).mul_(self.alpha).add_(gradient, alpha=1 - self.alpha)
        self.averages[name] = average
        return average

    def state(self) -> dict[str, Any]:
        """The averages by names."""
        return dict(self.averages)

    def restore(self, kept: Mapping[str, Any]) -> None:
        """The averages by names."""
        self.averages = dict(kept)


@dataclass
class Window:
    """The last gradients of a weight in a ring [window, ...] of their own dtype, their sum [...], and how many there have been."""

    ring: torch.Tensor
    total: torch.Tensor
    seen: int = 0


class Windowed(SlowPart):
    """The mean or the sum of the last gradients."""

    def __init__(self, window: int, *, mean: bool, warmup: bool) -> None:
        self.window, self.mean, self.warmup = window, mean, warmup
        self.windows: dict[str, Window] = {}

    def take(self, name: str, gradient: torch.Tensor) -> torch.Tensor | None:
        """The mean or the sum with this gradient in it; None before the window is full, unless warmup is off."""
        held = self.windows.get(name)
        if held is None:
            wide = torch.zeros_like(gradient, dtype=_wide(gradient))
            held = self.windows[name] = Window(gradient.new_zeros((self.window, *gradient.shape)), wide)
        held.ring, held.total = (_fitting(name, kept, gradient) for kept in (held.ring, held.total))
        oldest = held.ring[held.seen % self.window]
        held.total.sub_(oldest).add_(gradient)
        oldest.copy_(gradient)
        held.seen += 1
        if held.seen % self.window == 0:
            # Summed up anew each time round, so that what is rounded off cannot pile up.
            torch.sum(held.ring, 0, dtype=held.total.dtype, out=held.total)
        there = min(held.seen, self.window)
        if self.warmup and there < self.window:
            return None
        return held.total / there if self.mean else held.total

    def state(self) -> dict[str, Any]:
        """Ring, sum and count of each weight."""
        return {name: {"ring": held.ring, "total": held.total, "seen": held.seen} for name, held in self.windows.items()}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Ring, sum and count of each weight."""
        self.windows = {name: Window(**held) for name, held in kept.items()}


def _wide(gradient: torch.Tensor) -> torch.dtype:
    return torch.promote_types(gradient.dtype, torch.float32)


def _fitting(name: str, kept: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """What is kept of a weight, on the device of its gradient. Raises LonglineError when it is of a weight of another shape."""
    if kept.shape[kept.dim() - gradient.dim() :] != gradient.shape:
        shapes = f"{list(kept.shape)}, and its gradient here is {list(gradient.shape)}"
        text = f"the checkpoint's average of the gradients of {name} is {shapes}"
        raise LonglineError(text, hint="resume with the model and the processes of before, or start a run of its own")
    return kept.to(gradient.device)


def amplify(gradients: Iterable[tuple[str, torch.Tensor]], slow_part: SlowPart, times: float) -> None:
    """Add to each weight's gradient its slow part, `times` times, in place."""
    for name, gradient in gradients:
        slow = slow_part.take(name, gradient)
        if slow is not None:
            gradient.add_(slow, alpha=times)

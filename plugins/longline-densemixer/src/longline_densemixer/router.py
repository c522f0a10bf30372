"""Which rule a router follows: found by computing its own weights again from its logits, never by its name.

A router gives each expert a score s (a softmax over all experts, a sigmoid ...), picks k of them, and weighs an expert e that it
picked with w = c * s_e. The factor c is one number (plain), or what makes the picked weights of a token sum to one number
(renormalised). With the rule known there is a weight for the experts that were not picked, too: c * s_e with the same c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrt of softplus": lambda logits: functional.softplus(logits).sqrt(),
    "probabilities": lambda logits: logits,
}
"""From logits [tokens, experts] to scores. `probabilities`: what the router puts out are its scores already."""
PLAIN, RENORMALISED, BY_TOKEN = "plain", "renormalised", "with a factor of each token"
ROUNDINGS = 4
"""How many units in the last place the weights of a router may be off: a softmax, a sum, a division and a product round."""
LEAST = 2e-5
"""What they may be off anyway, as a share: some routers add a little to the sum that they divide by."""
CLEARLY = 3
"""When two rules are within the rounding, how many times nearer one must be to be taken."""


class UnknownRouterError(Exception):
    """No rule gives the router's own weights; the text says what was seen."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The rule of a router: its score, what the factor depends on, and the parameter with one more factor for each expert."""

    score: str
    factor: str = PLAIN
    per_expert: str = ""

    def __str__(self) -> str:
        times = f", times {self.per_expert}" if self.per_expert else ""
        return f"{self.score}, {self.factor}{times}"

    def scores(self, logits: Tensor, per_expert: Tensor | None = None) -> Tensor:
        """Scores [tokens, experts] in float32, or float64 for float64; differentiable."""
        found = SCORES[self.score](logits if logits.dtype == torch.float64 else logits.float())
        return found if per_expert is None else found * per_expert

    def weights(self, logits: Tensor, index: Tensor, own: Tensor, per_expert: Tensor | None = None) -> Tensor:
        """The weight of every expert [tokens, experts], differentiable in the logits; `own` [tokens, k] stand at `index`.

        What is picked and what sums to one are constants: the gradient is that of the score alone.
        """
        scores = self.scores(logits, per_expert)
        with torch.no_grad():
            picked = scores.gather(-1, index).masked_fill(own == 0, 0)
            over = {"dim": -1, "keepdim": True} if self.factor != PLAIN else {}
            total = picked.sum(**over)  # type: ignore[call-overload]
            factor = torch.where(total == 0, 0, own.to(scores.dtype).sum(**over) / total)  # type: ignore[call-overload]
        return scores * factor


def find(logits: Tensor, index: Tensor, own: Tensor, per_expert: Mapping[str, Tensor]) -> Kind:
    """The rule that gives the weights `own` [tokens, k] at `index` from `logits` [tokens, experts].

    `per_expert` are parameters of the router with a number for each expert, tried where nothing fits without.

    Raises:
        UnknownRouterError: none does, or several do.
    """
    if index.shape != own.shape or index.dim() != 2 or logits.dim() != 2 or len(logits) != len(index):
        shapes = ", ".join(str(list(item.shape)) for item in (logits, index, own))
        raise UnknownRouterError(f"its logits, picks and weights have the shapes {shapes}")
    if not own.any():
        raise UnknownRouterError("all its weights are zero")
    if index.shape[1] == 1 and torch.allclose(own, own[:1].expand_as(own)):
        raise UnknownRouterError("it picks one expert, whose weight is always the same: it has no gradient to make exact")
    for name in ("", *per_expert):
        fits = sorted((off, str(kind), kind) for kind, off in _candidates(logits, index, own, name, per_expert.get(name)))
        fits = [fit for fit in fits if fit[0] <= tolerance(logits, own)]
        if fits:
            return _clearest([(off, kind) for off, _, kind in fits])
    raise UnknownRouterError("no rule that is known gives its weights from its logits")


def _candidates(
    logits: Tensor, index: Tensor, own: Tensor, name: str, per_expert: Tensor | None
) -> Iterator[tuple[Kind, float]]:
    """For each score the simplest factor that fits, or the one that fits best, with how far its weights are off."""
    factors = (PLAIN, RENORMALISED, BY_TOKEN) if index.shape[1] > 1 else (PLAIN,)
    for score in SCORES:
        tried = [
            (Kind(score, factor, name), error(Kind(score, factor, name), logits, index, own, per_expert)) for factor in factors
        ]
        good = [item for item in tried if item[1] <= tolerance(logits, own)]
        yield good[0] if good else min(tried, key=lambda item: item[1])


def _clearest(fits: list[tuple[float, Kind]]) -> Kind:
    (best, kind), *others = fits
    if others and others[0][0] < CLEARLY * max(best, torch.finfo(torch.float32).eps):
        raise UnknownRouterError(f"{kind} and {others[0][1]} both give its weights")
    return kind


def error(kind: Kind, logits: Tensor, index: Tensor, own: Tensor, per_expert: Tensor | None = None) -> float:
    """How far the weights of a rule are from the router's own, as a share of each; infinite where they cannot be computed."""
    scores, known, used = kind.scores(logits).gather(-1, index), own.float() if own.itemsize < 4 else own, own != 0
    scores = scores.masked_fill(~used, 0)
    made = scores / scores.sum(-1, keepdim=True) if kind.factor == RENORMALISED else scores
    made = made if per_expert is None else made * per_expert[index]
    over = {"dim": -1, "keepdim": True} if kind.factor == BY_TOKEN else {}
    made = made * (known.sum(**over) / made.sum(**over))  # type: ignore[call-overload]
    off = ((made - known) / known)[used].abs().max().item()
    return off if off == off else float("inf")  # a NaN is unequal to itself


def holds(kind: Kind, logits: Tensor, index: Tensor, own: Tensor, per_expert: Tensor | None = None) -> bool:
    """Whether a router still follows the rule, as far as `Kind.weights` relies on it: what a sum comes to does not matter."""
    factor = kind.factor if index.shape[1] == 1 or kind.factor == PLAIN else BY_TOKEN
    return error(Kind(kind.score, factor), logits, index, own, per_expert) <= tolerance(logits, own)


def tolerance(logits: Tensor, own: Tensor) -> float:
    """How far weights may be off by rounding, as a share: the coarser type of the two decides."""
    return max(LEAST, ROUNDINGS * max(torch.finfo(item.dtype).eps for item in (logits, own)))

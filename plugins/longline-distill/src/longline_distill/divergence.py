"""How far two distributions over the next token are apart, token by token, and the cross entropy beside it.

Hinton, Vinyals, Dean 2015 (distillation, its temperature and the square of it); Agarwal et al. 2024, arXiv 2306.13649 (on-policy
distillation and the generalised Jensen-Shannon divergence).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from longline.events import IGNORED

if TYPE_CHECKING:
    from longline_distill.config import Divergence

LEAST = math.log(1e-7)
"""The least log probability of all tokens together that a teacher did not name: what is left of 1 after rounding may be 0."""


@dataclass(frozen=True, slots=True)
class Mix:
    """(1 - alpha) times the cross entropy, and alpha times T^2 times a divergence at temperature T."""

    alpha: float
    temperature: float = 1.0
    divergence: Divergence = "forward_kl"
    beta: float = 0.5


class Known(NamedTuple):
    """What a teacher says of n tokens, all natural log probabilities at the temperature of the loss.

    `ids` int64 [n, k]: its likeliest tokens, the likeliest first, -1 where it has named fewer; `logs` float32 [n, k]. With
    `ids` None it knows the whole vocabulary: `logs` [n, V'], which may be shorter than the student's where embeddings are padded.
    """

    ids: torch.Tensor | None
    logs: torch.Tensor


class Measured(NamedTuple):
    """Of n tokens: the loss, a scalar with a gradient, and float32 [5] without: sums of cross entropy, divergence, agreement of the
    likeliest token, then the number of tokens, and of those that the teacher says something of.
    """

    loss: torch.Tensor
    sums: torch.Tensor


def measure(logits: torch.Tensor, targets: torch.Tensor, known: Known, mix: Mix) -> Measured:
    """Sum the loss of n tokens: `logits` float32 [n, V], `targets` int64 [n], of which -100 counts nothing."""
    counts = targets != IGNORED
    entropy = cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    if known.ids is None:
        taught, first = counts, known.logs.argmax(1)
        size = known.logs.shape[1]
        student, teacher = torch.log_softmax(logits[:, :size] / mix.temperature, 1), known.logs
    else:
        taught, first = counts & (known.ids[:, 0] >= 0), known.ids[:, 0]
        student, teacher = _with_the_rest(torch.log_softmax(logits / mix.temperature, 1), known.ids, known.logs)
    apart = torch.where(taught, diverge(teacher, student, mix), 0)
    loss = ((1 - mix.alpha) * entropy + mix.alpha * mix.temperature**2 * apart).sum()
    agrees = (logits.argmax(1) == first) & taught
    with torch.no_grad():
        sums = torch.stack([part.sum().float() for part in (entropy, apart, agrees, counts, taught)])
    return Measured(loss, sums)


def diverge(teacher: torch.Tensor, student: torch.Tensor, mix: Mix) -> torch.Tensor:
    """The divergence of log probabilities [n, categories], float32 [n]; -inf is a category that is not there."""
    gone = teacher == -math.inf
    p, q = teacher.masked_fill(gone, 0), student.masked_fill(gone, 0)
    if mix.divergence == "forward_kl":
        terms = p.exp() * (p - q)
    elif mix.divergence == "reverse_kl":
        terms = q.exp() * (q - p)
    else:
        middle = torch.logaddexp(p + math.log(mix.beta), q + math.log(1 - mix.beta))
        terms = mix.beta * p.exp() * (p - middle) + (1 - mix.beta) * q.exp() * (q - middle)
    return terms.masked_fill(gone, 0).sum(1)


def _with_the_rest(student: torch.Tensor, ids: torch.Tensor, logs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(student, teacher) over the k tokens that the teacher named, and all others as one more: float32 [n, k + 1]."""
    missing = ids < 0
    # A place that is missing points at the first token, which is there, so that no other is taken for named.
    places = torch.where(missing, ids[:, :1], ids).clamp(min=0)
    inside = student.gather(1, places)
    rest = student.scatter(1, places, -math.inf).logsumexp(1, keepdim=True)
    teacher = logs.masked_fill(missing, -math.inf)
    left = torch.log1p(-teacher.exp().sum(1, keepdim=True).clamp(max=1 - 1e-7)).clamp(min=LEAST)
    return torch.cat([inside, rest], 1), torch.cat([teacher, left], 1)

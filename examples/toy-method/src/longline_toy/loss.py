"""The loss: how likely the order of answers is, when each is drawn from those that are left by its score.

That is the model of Plackett (1975) and Luce (1959); as a loss over lists it is ListMLE (Xia et al. 2008), and with mean log
probabilities of a language model's answers as scores, that of preference ranking optimisation (Song et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from longline.events import IGNORED


def answer_scores(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
    """The mean log probability of each answer's tokens, float32 [answers], and what the model put out."""
    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    labels = inputs["labels"][:, 1:]
    logits = outputs.logits[:, :-1].float().transpose(1, 2)
    losses = cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    return -losses.sum(1) / (labels != IGNORED).sum(1), outputs


def plackett_luce(scores: torch.Tensor) -> torch.Tensor:
    """The negative log probability of an order, a scalar; `scores` [answers] are those of one row, the best answer's first."""
    left = scores.flip(0).logcumsumexp(0).flip(0)  # of an answer and all worse ones
    return (left - scores).sum()


def pairs_right(scores: torch.Tensor) -> torch.Tensor:
    """The share of pairs of answers in which the better one has the higher score: 0 to 1, a scalar."""
    better, worse = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
    return (scores[better] > scores[worse]).float().mean()

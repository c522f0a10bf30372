"""Every loss against plain PyTorch in float64, written out from the formulas, with its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from longline.events import IGNORED
from longline.loss.head import Transform
from longline_distill.divergence import Known, Mix, measure
from longline_distill.objective import Objective

N, V, K, SIZE = 37, 50, 6, 16


def plain(logits, targets, teacher, mix, k=None):
    """The loss, from probabilities written out: no log-softmax, no chunk, no bucket by logsumexp."""
    total = logits.new_zeros(())
    for row, target, other in zip(logits, targets.tolist(), teacher, strict=True):
        if target == IGNORED:
            continue
        q = (row / mix.temperature).exp() / (row / mix.temperature).exp().sum()
        p = (other / mix.temperature).exp() / (other / mix.temperature).exp().sum()
        if k is not None:
            best = p.argsort(descending=True)[:k]
            q, p = (torch.cat([one[best], 1 - one[best].sum()[None]]) for one in (q, p))
        if mix.divergence == "forward_kl":
            apart = (p * (p / q).log()).sum()
        elif mix.divergence == "reverse_kl":
            apart = (q * (q / p).log()).sum()
        else:
            m = mix.beta * p + (1 - mix.beta) * q
            apart = mix.beta * (p * (p / m).log()).sum() + (1 - mix.beta) * (q * (q / m).log()).sum()
        entropy = -(row.exp() / row.exp().sum())[target].log()
        total = total + (1 - mix.alpha) * entropy + mix.alpha * mix.temperature**2 * apart
    return total


class Logits:
    """A view of a teacher whose logits are all there."""

    def __init__(self, logits, mix, k=None):
        self.logs = torch.log_softmax(logits / mix.temperature, 1)
        self.k = k

    def rows(self, start, stop):
        logs = self.logs[start:stop]
        return Known(None, logs) if self.k is None else Known(*reversed(logs.topk(self.k, 1)))


MIXES = [
    Mix(0.5),
    Mix(1.0, 2.0),
    Mix(0.3, 0.7, "reverse_kl"),
    Mix(0.9, 1.0, "jsd", 0.5),
    Mix(1.0, 3.0, "jsd", 0.1),
    Mix(0.0),
]


@pytest.fixture
def parts():
    torch.manual_seed(0)
    hidden = torch.randn(N, SIZE)
    head = nn.Linear(SIZE, V)
    targets = torch.randint(V, (N,))
    targets[[3, N - 1]] = IGNORED
    return hidden, head, targets, 2 * torch.randn(N, V)


@pytest.mark.parametrize("k", [None, K, 1], ids=["whole", "top 6", "top 1"])
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: f"{mix.divergence}-{mix.alpha}-{mix.temperature}")
def test_the_loss_and_its_gradients_are_those_of_the_formula(parts, mix, k):
    hidden, head, targets, teacher = parts
    ours = hidden.clone().requires_grad_()
    objective = Objective(mix, chunk_tokens=8)
    objective.view = Logits(teacher, mix, k)
    loss = objective(ours, head, targets, Transform(scale=1.5, softcap=4.0))
    (3 * loss).backward()

    exact = nn.Linear(SIZE, V).double()
    exact.load_state_dict(head.state_dict())
    theirs = hidden.double().requires_grad_()
    expected = plain(4.0 * torch.tanh(1.5 * exact(theirs) / 4.0), targets, teacher.double(), mix, k)
    (3 * expected).backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, right in ((ours, theirs), (head.weight, exact.weight), (head.bias, exact.bias)):
        torch.testing.assert_close(mine.grad.double(), right.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [None, K])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(parts, divergence, k):
    hidden, head, targets, _ = parts
    mix = Mix(1.0, 2.0, divergence)
    ours = hidden.clone().requires_grad_()
    objective = Objective(mix)
    objective.view = Logits(head(hidden).detach(), mix, k)
    loss = objective(ours, head, targets, Transform())
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert ours.grad.abs().max() < 1e-5
    entropy, apart, agreeing, tokens, taught = objective.sums.tolist()
    assert (agreeing, tokens, taught) == (N - 2, N - 2, N - 2)
    assert abs(apart) < 1e-5
    assert entropy > 0


def test_tokens_that_the_teacher_did_not_name(parts):
    """Fewer than k are the same as k with the rest in the bucket; a token without any is learnt from its label alone."""
    hidden, head, targets, teacher = parts
    logits = head(hidden).detach()
    logs, ids = torch.log_softmax(teacher, 1).topk(3, 1)
    mix = Mix(0.5)
    wide = torch.cat([ids, torch.full((N, 2), -1)], 1), torch.cat([logs, torch.zeros(N, 2)], 1)
    narrow = measure(logits, targets, Known(ids, logs), mix)
    assert measure(logits, targets, Known(*wide), mix).loss.item() == pytest.approx(narrow.loss.item(), rel=1e-6)
    nothing = measure(logits, targets, Known(torch.full((N, 2), -1), torch.zeros(N, 2)), mix)
    entropy = nn.functional.cross_entropy(logits, targets, reduction="sum")
    assert nothing.loss.item() == pytest.approx(0.5 * entropy.item(), rel=1e-6)
    assert nothing.sums[4] == 0


def test_a_teacher_that_is_certain_leaves_nothing_for_the_rest(parts):
    hidden, head, targets, _ = parts
    logits = head(hidden).detach().requires_grad_()
    known = Known(targets.clamp(min=0)[:, None], torch.zeros(N, 1))
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        found = measure(logits, targets, known, Mix(1.0, divergence=divergence))
        found.loss.backward()
        assert math.isfinite(found.loss.item())
        assert logits.grad.isfinite().all()
    certain = measure(logits, targets, known, Mix(1.0)).loss.item()
    assert certain == pytest.approx(nn.functional.cross_entropy(logits, targets, reduction="sum").item(), rel=1e-4)

"""What the loss takes at a vocabulary of 131,072, beside the plain form of it, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = r"""
import re, sys, torch
from pathlib import Path
from torch import nn
from longline.loss.head import Transform
from longline_distill.divergence import Known, Mix
from longline_distill.objective import Objective

N, V, SIZE = 512, 131_072, 32
torch.manual_seed(0)
hidden, targets = torch.randn(N, SIZE, requires_grad=True), torch.randint(V, (N,))
head, teacher, of_teacher = nn.Linear(SIZE, V, bias=False), nn.Linear(SIZE, V, bias=False), torch.randn(N, SIZE)

class View:
    @torch.no_grad()
    def rows(self, start, stop):
        return Known(None, torch.log_softmax(teacher(of_teacher[start:stop]), 1))

def peak():  # of this program: what getrusage has begins with that of whoever started it
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
if sys.argv[1] == "plain":
    logits = head(hidden)
    with torch.no_grad():
        known = torch.log_softmax(teacher(of_teacher), 1)
    own = torch.log_softmax(logits, 1)
    loss = 0.5 * nn.functional.cross_entropy(logits, targets, reduction="sum")
    loss = loss + 0.5 * nn.functional.kl_div(own, known, reduction="sum", log_target=True)
else:
    objective = Objective(Mix(0.5))
    objective.view = View()
    loss = objective(hidden, head, targets, Transform())
loss.backward()
print(peak() - before, loss.item(), hidden.grad.norm().item())
"""


def measured(form: str) -> list[float]:
    ended = subprocess.run([sys.executable, "-c", SCRIPT, form], capture_output=True, text=True, check=True, timeout=120)
    return [float(part) for part in ended.stdout.split()]


def test_no_logits_of_more_than_a_chunk():
    plain, ours = measured("plain"), measured("ours")
    print(plain[0] / 1024, ours[0] / 1024)
    assert ours[1:] == pytest.approx(plain[1:], rel=1e-4)
    assert ours[0] < 0.25 * plain[0]

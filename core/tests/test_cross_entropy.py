"""The loss in the logits' own memory: torch's numbers, one tensor of their size, and nobody's logits spoilt unseen."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from longline.loss.cross_entropy import CACHE, can_overwrite, loss_and_slope, overwriting_loss


def head(rows=23, size=8, vocabulary=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, rows, size, generator=generator).to(dtype).requires_grad_()
    weight = (3 * torch.randn(vocabulary, size, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[::5] = -100
    return hidden, weight, targets


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("outer", [1, 3])
@pytest.mark.parametrize("vocabulary", [50, CACHE // 40])  # one part, and parts of ten rows
def test_loss_and_gradients_are_torchs(dtype, tolerance, outer, vocabulary):
    hidden, weight, targets = head(vocabulary=vocabulary, dtype=dtype)
    plain = functional.cross_entropy((hidden @ weight.T)[0].float(), targets, reduction="sum") / 7
    expected = torch.autograd.grad(outer * plain, (hidden, weight))
    logits = hidden @ weight.T
    assert can_overwrite(logits)
    loss = overwriting_loss(logits, targets, torch.tensor(7))
    assert logits.shape == (1, 0, vocabulary)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, plain, rtol=1e-5)
    for found, wanted in zip(torch.autograd.grad(outer * loss, (hidden, weight)), expected, strict=True):
        assert found.dtype == dtype
        assert (found - wanted).norm() <= tolerance * wanted.norm()


def test_large_logits_overflow_nothing():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 1e4]])
    loss = loss_and_slope(logits, torch.tensor([1, 1]))
    assert loss.item() == pytest.approx(1e4 + torch.tensor(2.0).log().item())
    assert logits.tolist() == [[1.0, -1.0, 0.0], [0.0, -0.5, 0.5]]


def test_what_is_not_a_number_stays_so():
    hidden, weight, targets = head()
    with torch.no_grad():
        hidden[0, 3, 0] = float("nan")
    assert torch.isnan(overwriting_loss(hidden @ weight.T, targets, torch.tensor(7)))


class Large(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the tensors of one size, by their memory."""

    def __init__(self, size):
        super().__init__()
        self.size, self.kept, self.places = size, [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.numel() == self.size:
            self.kept.append(made)  # so that no address comes twice
            self.places.add(made.untyped_storage().data_ptr())
        return made


def test_no_other_tensor_is_as_large_as_the_logits():
    vocabulary = CACHE // 40
    hidden, weight, targets = head(rows=64, vocabulary=vocabulary)
    with Large(64 * vocabulary) as ours:
        overwriting_loss(hidden @ weight.T, targets, torch.tensor(7)).backward()
    assert len(ours.places) == 1
    with Large(64 * vocabulary) as torchs:
        functional.cross_entropy((hidden @ weight.T)[0], targets).backward()
    assert len(torchs.places) >= 3, "or this counts nothing"


def test_logits_that_are_needed_or_cannot_be_had_are_left_alone():
    hidden, weight, _ = head()
    logits = hidden @ weight.T
    assert can_overwrite(logits)
    assert can_overwrite(5 * torch.tanh(logits / 5)), "softcapping keeps the tanh, not this"
    assert not can_overwrite(torch.tanh(logits)), "tanh's backward wants its output"
    assert not can_overwrite(torch.tanh(logits)[:, 2:]), "a part of it"
    assert not can_overwrite(weight)
    assert not can_overwrite(logits.transpose(1, 2))
    assert not can_overwrite(logits.half())
    assert not can_overwrite(torch.nn.Parameter(logits.detach()))
    with torch.no_grad():
        assert not can_overwrite(hidden @ weight.T)


def test_a_second_backward_is_refused():
    hidden, weight, targets = head()
    loss = overwriting_loss(hidden @ weight.T, targets, torch.tensor(7))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gives its gradients once"):
        loss.backward()

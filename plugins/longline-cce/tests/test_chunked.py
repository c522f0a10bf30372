"""The chunked loss against the same thing written out in float64."""

from __future__ import annotations

import pytest
import torch

from longline_cce.chunked import BUDGET, chunked_loss, tokens_for


def given(dtype=torch.float32, pairs=1, bias=True, tokens=23, vocabulary=61, size=8):
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(pairs):
        hidden = torch.randn(tokens, size, generator=generator).to(dtype).requires_grad_()
        made.append((hidden, torch.randn(vocabulary, size, generator=generator).to(dtype).requires_grad_()))
        size //= 2
    shift = torch.randn(vocabulary, generator=generator).to(dtype).requires_grad_() if bias else None
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[[0, 7, 22]] = -100
    return made, shift, targets


def written_out(pairs, bias, targets, softcap):
    """Loss and gradients in float64, by torch's own autograd."""
    leaves = [tensor.detach().double().requires_grad_() for pair in pairs for tensor in pair]
    shift = None if bias is None else bias.detach().double().requires_grad_()
    logits = sum(hidden @ weight.T for hidden, weight in zip(leaves[::2], leaves[1::2], strict=True))
    logits = logits if shift is None else logits + shift
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    scores = logits - logits.exp().sum(1, keepdim=True).log()
    loss = -sum(scores[place, target] for place, target in enumerate(targets.tolist()) if target >= 0)
    return loss, torch.autograd.grad(loss * 0.5, [*leaves, *([] if shift is None else [shift])])


@pytest.mark.parametrize("tokens", [1, 5, 23, 100, None])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("pairs", "bias"), [(1, False), (1, True), (3, True)])
def test_loss_and_gradients_are_those_written_out(pairs, bias, softcap, tokens):
    products, shift, targets = given(pairs=pairs, bias=bias)
    expected, slopes = written_out(products, shift, targets, softcap)
    loss = chunked_loss(products, shift, targets, softcap=softcap, tokens=tokens)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (loss * 0.5).backward()
    leaves = [tensor for pair in products for tensor in pair] + ([] if shift is None else [shift])
    for leaf, slope in zip(leaves, slopes, strict=True):
        assert torch.allclose(leaf.grad.double(), slope, rtol=1e-4, atol=1e-5)


def test_half_precision_adds_up_in_float32():
    products, shift, targets = given(torch.bfloat16, tokens=600)
    expected, slopes = written_out(products, shift, targets, None)
    loss = chunked_loss(products, shift, targets, tokens=7)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    loss.backward()
    weight = products[0][1]
    assert weight.grad.dtype == torch.bfloat16
    # 86 chunks: rounded at each of them, the sum would be off by several per cent
    assert (weight.grad.double() - 2 * slopes[1]).norm() / (2 * slopes[1]).norm() < 0.005


def test_autocast_multiplies_in_its_type_as_the_plain_loss_does():
    products, _, targets = given(bias=False)
    (hidden, weight) = products[0]
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.nn.functional.linear(hidden, weight).float()
        expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        loss = chunked_loss(products, None, targets, tokens=4)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)


def test_what_is_frozen_gets_no_gradient_and_evaluation_none():
    products, shift, targets = given()
    products[0][1].requires_grad_(False)
    chunked_loss(products, shift, targets).backward()
    assert products[0][1].grad is None
    assert products[0][0].grad.abs().sum() > 0
    with torch.no_grad():
        assert not chunked_loss(products, shift, targets).requires_grad


def test_nothing_to_learn_is_zero_with_zero_gradients():
    products, shift, _ = given(tokens=23)
    loss = chunked_loss(products, shift, torch.full((23,), -100))
    loss.backward()
    assert loss.item() == 0
    assert not products[0][1].grad.any()


def test_logits_beyond_what_exp_holds():
    hidden = torch.tensor([[400.0], [-400.0]], requires_grad=True)
    loss = chunked_loss([(hidden, torch.tensor([[1.0], [-1.0]]))], None, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 800
    assert hidden.grad.tolist() == [[0.0], [-2.0]]


def test_a_second_backward_is_refused():
    products, shift, targets = given()
    loss = chunked_loss(products, shift, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gives its gradients once"):
        loss.backward()


def test_a_chunk_keeps_to_the_budget():
    assert tokens_for(131072) * 131072 * 4 == BUDGET
    assert tokens_for(10**9) == 1


def test_no_more_than_a_chunk_of_logits_exists():
    """The largest tensor that any operation puts out, seen by torch itself."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return result

    products, _, targets = given(tokens=600, vocabulary=500, bias=False)
    with Largest() as largest:
        chunked_loss(products, None, targets, tokens=10).backward()
    assert largest.size == 10 * 500

"""The rule of a router is found from its logits and weights alone; what no rule gives, or several do, is refused."""

from __future__ import annotations

import pytest
import torch

from longline_densemixer import router

TOKENS, EXPERTS, PICKED = 32, 8, 3
SCORES = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrt of softplus": lambda logits: torch.nn.functional.softplus(logits).sqrt(),
}


def made(score, scale=1.0, renormalised=False, bias=False, picked=PICKED, dtype=torch.float32):
    """Logits, picks and weights as routers make them."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(TOKENS, EXPERTS, generator=generator).to(dtype)
    scores = SCORES[score](logits.float())
    index = (scores + torch.randn(EXPERTS, generator=generator) * bias).topk(picked).indices
    own = scores.gather(-1, index)
    own = own / own.sum(-1, keepdim=True) if renormalised else own
    return logits, index, (own * scale).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("renormalised", "scale"), [(False, 1.0), (False, 2.5), (True, 1.0), (True, 2.5)])
@pytest.mark.parametrize("score", SCORES)
def test_the_rule_is_found(score, renormalised, scale, bias, dtype):
    kind = router.find(*made(score, scale, renormalised, bias, dtype=dtype), {})
    assert kind == router.Kind(score, router.RENORMALISED if renormalised else router.PLAIN)


def test_a_softmax_of_what_was_picked_is_one_over_all_renormalised():
    logits, index, _ = made("softmax")
    kind = router.find(logits, index, logits.gather(-1, index).softmax(-1), {})
    assert str(kind) == "softmax, renormalised"


def test_a_factor_of_each_expert_is_found_by_its_parameter():
    logits, index, own = made("softmax", renormalised=True)
    factor, other = torch.linspace(0.5, 2, EXPERTS), torch.randn(EXPERTS)
    kind = router.find(logits.softmax(-1), index, own * factor[index], {"bias": other, "per_expert_scale": factor})
    assert str(kind) == "probabilities, renormalised, times per_expert_scale"


def test_a_factor_of_each_token_is_found_where_others_share_in_the_sum():
    logits, index, own = made("sigmoid")
    shared = torch.rand(TOKENS, 1, generator=torch.Generator().manual_seed(0))
    assert (
        str(router.find(logits, index, own / (own.sum(-1, keepdim=True) + shared), {}))
        == "sigmoid, with a factor of each token"
    )


@pytest.mark.parametrize("picked", [1, 2])
def test_masked_picks_are_no_evidence(picked):
    logits, index, own = made("softmax", picked=picked)
    own[::3, 0] = 0
    assert str(router.find(logits, index, own, {})) == "softmax, plain"


def sparsemixer(logits):
    """Each pick by a softmax over what is near it, as in phimoe."""
    first = logits.argmax(-1, keepdim=True)
    rest = logits.scatter(-1, first, float("-inf"))
    second = rest.argmax(-1, keepdim=True)
    own = [logits.softmax(-1).gather(-1, first), rest.softmax(-1).gather(-1, second)]
    return logits, torch.cat([first, second], -1), torch.cat(own, -1)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (sparsemixer(made("softmax")[0]), "no rule that is known gives its weights"),
        ((torch.zeros(4, 6), torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.5)), "both give its weights"),
        (made("sigmoid", renormalised=True, picked=1), "whose weight is always the same"),
        ((made("softmax")[0], made("softmax")[1], torch.zeros(TOKENS, PICKED)), "all its weights are zero"),
        ((made("softmax")[0], made("softmax")[1][:, :1], made("softmax")[2]), "have the shapes"),
    ],
    ids=["sparsemixer", "logits of zero", "one expert of weight one", "no weights", "shapes"],
)
def test_refused(given, why):
    with pytest.raises(router.UnknownRouterError, match=why):
        router.find(*given, {})


@pytest.mark.parametrize("score", SCORES)
def test_the_weights_of_all_experts_are_the_routers_own_where_it_picked(score):
    for renormalised in (False, True):
        logits, index, own = made(score, 2.5, renormalised, bias=True)
        weights = router.find(logits, index, own, {}).weights(logits, index, own)
        assert torch.allclose(weights.gather(-1, index), own, rtol=1e-5)
        assert weights.shape == logits.shape


def test_the_gradient_of_weights_holds_the_sum_of_picks_fast():
    """dw_e / dl = ds_e / dl over a constant: what DenseMixer's package has for experts that were not picked."""
    logits, index, own = (item.double() if item.is_floating_point() else item for item in made("softmax", renormalised=True))
    logits.requires_grad_()
    kind = router.Kind("softmax", router.RENORMALISED)
    left = torch.ones_like(logits).scatter(-1, index, 0)
    upstream = torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * left
    kind.weights(logits, index, own).backward(upstream)
    scores = logits.detach().softmax(-1)
    given = upstream / scores.gather(-1, index).sum(-1, keepdim=True)
    assert torch.allclose(logits.grad, scores * (given - (scores * given).sum(-1, keepdim=True)))

"""The gradient itself, against formulas written out for a few models: the whole matrix of types is `tox run -e densemixer`."""

from __future__ import annotations

import copy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from longline.testing import zoo
from longline_densemixer import dense, layers, upstream

SPEC = spec_from_file_location("densemixer_matrix", Path(__file__).with_name("matrix.py"))
matrix = module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)


def only_mixture(name, **settings):
    """A mixture of a tiny model in float64 with eager experts, and hidden states for it."""
    model = matrix.build(name, **settings).double()
    layer = layers.find(model, 5, None)[-1]
    hidden = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return layer, hidden


def package_rule(block, hidden, norm):
    """What densemixer 1.0.1 computes for qwen3_moe and olmoe: all experts with w - stop(w), their outputs learning where picked."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    every = (flat @ block.gate.weight.T).float().softmax(-1)
    top, index = every.topk(block.gate.top_k)
    picked = torch.zeros_like(every).scatter(-1, index, 1.0)
    if norm:
        total = top.sum(-1, keepdim=True)
        every, top = every * (1 - picked) / total.detach() + every * picked / total, top / total
    real, all_in = 0, 0
    for expert in range(every.shape[1]):
        gate, up = (flat @ block.experts.gate_up_proj[expert].T).chunk(2, -1)
        out = (torch.nn.functional.silu(gate) * up) @ block.experts.down_proj[expert].T
        mine = picked[:, expert, None].double()
        out = out * mine + (out * (1 - mine)).detach()
        all_in = all_in + out * every[:, expert, None]
        real = real + (out * mine * every[:, expert, None]).detach()
    return (real + all_in - all_in.detach()).reshape(hidden.shape)


@pytest.mark.parametrize(("name", "norm"), [("qwen3_moe", False), ("qwen3_moe", True), ("olmoe", False), ("olmoe", True)])
def test_it_is_the_rule_of_the_package(name, norm):
    layer, hidden = only_mixture(name, norm_topk_prob=norm)
    results = []
    for own in (False, True):
        layer.block.zero_grad()
        given = hidden.clone().requires_grad_()
        if own:
            layer.attach()
        out = layer.block(given) if own else package_rule(layer.block, given, norm)
        (out * hidden.cos()).sum().backward()
        results.append([out.detach(), given.grad, *(weight.grad for weight in layer.block.parameters())])
        layer.detach()
    assert layer.experts == 4
    for expected, found in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_a_type_beside_the_closed_form(name):
    """Softmax, sigmoid with a bias, and experts with biases: forward, routers, experts, implementations, checkpoints, LoRA."""
    row = matrix.of_variant(name, matrix.variants(name)[-1])
    assert [key for key in matrix.COLUMNS if row.get(key) is not True] == [
        "fsdp2"
    ]  # whole runs on two ranks: test_densemixer_runs
    assert row["kinds"] == [
        {"qwen3_moe": "softmax, renormalised", "deepseek_v3": "sigmoid, plain"}.get(name, "softmax, renormalised")
    ]


def test_the_closed_form_would_show_a_wrong_rule():
    model = matrix.build("qwen3_moe").double()
    batch = zoo.batches(model)["padded"]
    ours = matrix.run_with(model, batch)
    with matrix.let_in(model) as found:
        kinds = {layer.name: "softmax, plain" for layer in found}
    with matrix.closed_form(model, kinds):
        right = matrix.run(model, batch)
    with matrix.closed_form(model, dict.fromkeys(kinds, "sigmoid, plain")):
        wrong = matrix.run(model, batch)
    assert matrix.off(right[1], ours[1]) < matrix.EXACT < 1e-2 < matrix.off(wrong[1], ours[1])
    assert matrix.off(matrix.run(model, batch)[1], ours[1]) > 1e-2


def test_pairs_at_once_change_nothing():
    layer, hidden = only_mixture("mixtral")
    flat, grad = hidden.flatten(0, 1), hidden.flatten(0, 1).sin()
    left = torch.rand(12, 4, generator=torch.Generator().manual_seed(2)) > 0.4
    experts = layer.block.experts
    found = [dense.products(experts, flat, grad, left, pairs) for pairs in (1, 5, 1000)]
    alone = torch.stack([experts(flat, torch.full((12, 1), e), torch.ones(12, 1).double()) for e in range(4)], 1)
    expected = torch.einsum("tew,tw->te", alone, grad).masked_fill(~left, 0)
    for item in found:
        assert not item.requires_grad
        assert torch.allclose(item, expected.detach(), rtol=1e-12)
    nothing = dense.products(experts, flat, grad, torch.zeros_like(left), 5)
    assert not nothing.any()


def test_no_graph_of_experts_is_kept_for_what_was_not_picked():
    """Beside the plain run: hidden states, which are there already, and two tables of tokens by experts."""
    layer, hidden = only_mixture("qwen3_moe")
    sizes = []
    for attached in (False, True):
        if attached:
            layer.attach()
            layer.block(hidden)  # finds its rule first
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda item, kept=kept: kept.setdefault(item.data_ptr(), item), lambda item: item
        ):
            layer.block(hidden)
        sizes.append(sum(item.numel() for item in kept.values()))
    assert sizes[1] - sizes[0] <= 6 * 12 * 4  # 12 tokens, 4 experts; one expert's activations would be 12 * (64 + 3 * 32)


def test_without_gradients_nothing_happens():
    layer, hidden = only_mixture("qwen3_moe")
    layer.attach()
    with torch.no_grad():
        out = layer.block(hidden)
    assert out.grad_fn is None
    assert layer.kind is None
    layer.block(hidden)
    assert layer.kind is not None


def test_a_copy_of_the_model_has_layers_of_its_own():
    """Trainers copy a policy: hooks of the copy must not run the experts of the original."""
    model = matrix.build("qwen3_moe")
    batch = zoo.batches(model)["padded"]
    with matrix.let_in(model):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
        changed = matrix.run(twin, batch)
    expected = matrix.run_with(matrix.build("qwen3_moe"), batch)
    assert matrix.off(expected[1], changed[1]) < matrix.NEAR


def test_a_probe_leaves_no_trace():
    model = matrix.build("mixtral")
    model.register_buffer("counter", torch.zeros(1))
    model.register_forward_hook(lambda module, *_: module.counter.add_(torch.rand(1)))
    state = torch.random.get_rng_state()
    with matrix.let_in(model) as found:
        assert {str(layer.kind) for layer in found} == {"softmax, renormalised"}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.counter.any()


def test_a_rule_that_does_not_hold_in_training_is_refused():
    model = matrix.build("qwen3_moe")
    batch = zoo.batches(model)["padded"]
    with matrix.let_in(model):
        forward = model.model.layers[1].mlp.gate.forward

        def other(hidden):
            logits, weights, index = forward(hidden)
            return logits, weights.square(), index

        model.model.layers[1].mlp.gate.forward = other
        with pytest.raises(
            layers.LonglineError,
            match=r"layers\.1\.mlp: Qwen3MoeTopKRouter: its rule was softmax, plain, and its weights in training",
        ):
            matrix.run(model, batch)


def test_experts_whose_outputs_do_not_add_up_are_refused():
    model = matrix.build("qwen3_moe")
    experts = model.model.layers[0].mlp.experts
    forward = experts.forward
    experts.forward = lambda hidden, index, weights: forward(hidden, index, weights.square())
    with pytest.raises(layers.LonglineError, match="does not add up by its weights"), matrix.let_in(model):
        pass


@pytest.mark.parametrize("name", ["phimoe", "longcat_flash"])
def test_refused_by_name(name):
    with (
        pytest.raises(layers.LonglineError, match=r"not applied to model\.layers\.0\.mlp.*(Phimoe|Longcat)"),
        matrix.let_in(matrix.build(name)),
    ):
        pass


def test_dense_models_are_refused():
    with pytest.raises(layers.LonglineError, match="LlamaForCausalLM is dense"):
        layers.find(zoo.build("llama"), 5, None)


def test_metrics_are_sums_of_squares():
    model = matrix.build("qwen3_moe").double()
    batch, tally = zoo.batches(model)["padded"], layers.Tally()
    found = layers.find(model, 7, tally)
    for layer in found:
        layer.attach()
    matrix.run(model, batch)
    share = tally.share()
    assert 0 < share < 1
    assert tally.share() is None
    assert upstream.implementation(model.model.layers[0].mlp.experts) == "eager"

"""Every type that Liger and transformers know: each kernel is applied to a tiny model, and found there or not, as checked in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import activations

from longline.testing import zoo
from longline_liger import applied, dispatch, release, upstream
from longline_liger.config import LOSSES
from longline_liger.patches import ProcessPatches, is_ligers

FILE = json.loads((Path(__file__).parent / "matrix.json").read_text(encoding="utf-8"))
STATES = FILE["types"]


@pytest.fixture
def patches():
    made = ProcessPatches()
    yield made
    made.undo()
    for module in (torch, torch.nn, torch.nn.functional, torch.nn.modules.loss):
        left = [name for name, value in vars(module).items() if is_ligers(value)]
        assert not left, f"{module.__name__} still has Liger's {left}"
    left = [name for name, value in dict.items(activations.ACT2FN) if is_ligers(value)]
    assert not left, f"the activations that all models share are still Liger's: {left}"


def test_the_matrix_is_of_this_release_and_has_every_type():
    assert FILE["versions"]["liger-kernel"] == release.installed_version()
    missing = zoo.missing(upstream.functions())
    assert set(STATES) == {name for name in upstream.functions() if name not in missing}
    assert len(STATES) >= 48


@pytest.mark.parametrize("model_type", sorted(STATES))
def test_each_kernel_is_found_on_the_model_or_not(model_type, patches):
    states = {kernel: state for kernel, state in STATES[model_type].items() if kernel != "use_token_scaling"}
    model = zoo.build(model_type)
    found = dispatch.find(model.config)
    if "" in states:
        with pytest.raises(dispatch.LonglineError, match=f"does not fit transformers .* of type '{model_type}'"):
            dispatch.require_classes(found)
        return
    results = {item.kernel: item for item in applied.apply(model, list(found.advice), found, patches)}
    assert set(results) == set(states)
    for kernel, state in states.items():
        assert results[kernel].done == (not state.startswith("no: ")), (kernel, results[kernel])
        assert results[kernel].done or results[kernel].why
        assert not applied.lost(model, results[kernel])


@pytest.mark.parametrize("model_type", [name for name, row in sorted(STATES.items()) if "" not in row])
def test_one_after_the_other_is_the_same_as_all_at_once(model_type, patches):
    """Liger's own way is one call; one call for each kernel tells which kernel did what."""
    first, second = zoo.build(model_type), zoo.build(model_type)
    found = dispatch.find(first.config)
    able = [kernel for kernel, state in STATES[model_type].items() if kernel in found.advice and not state.startswith("no: ")]
    kernels = [kernel for kernel in able if kernel != "cross_entropy" or "fused_linear_cross_entropy" not in able]
    applied.apply(first, kernels, found, patches)
    one = forwards(first)
    patches.undo()
    patches.look()
    found.call(second, *kernels)
    patches.found()
    assert one == forwards(second)
    assert any("liger_kernel" in place for place in one.values())


def forwards(model):
    return {name: f"{type(module).__module__} {function(module)}" for name, module in model.named_modules()}


def function(module):
    forward = getattr(module.forward, "__func__", module.forward)
    return f"{forward.__module__}.{forward.__qualname__}"


def test_no_kernel_changes_nothing_and_undo_puts_everything_back(patches):
    from transformers.models.llama import modeling_llama

    model = zoo.build("llama")
    found = dispatch.find(model.config)
    before, plain, cross_entropy = dict(vars(modeling_llama)), forwards(model), torch.nn.functional.cross_entropy
    found.call(model)
    assert forwards(model) == plain
    applied.apply(model, ["rope", "rms_norm", "swiglu", "cross_entropy"], found, patches)
    assert modeling_llama.apply_rotary_pos_emb is not before["apply_rotary_pos_emb"]
    assert modeling_llama.LlamaRMSNorm is before["LlamaRMSNorm"]  # only this model is patched
    assert torch.nn.functional.cross_entropy is not cross_entropy
    patches.undo()
    assert dict(vars(modeling_llama)) == before
    assert torch.nn.functional.cross_entropy is cross_entropy


def test_the_loss_of_a_part_is_not_the_loss_of_the_model(patches):
    model = zoo.build("llama4")
    result = applied.apply(model, ["fused_linear_cross_entropy"], dispatch.find(model.config), patches)[0]
    assert not result.done
    assert result.why == "liger replaced the forward of Llama4ForCausalLM, and this model takes the loss outside of it"
    assert not patches.replaced


def test_advice_of_parts_is_known_where_liger_hands_it_on():
    found = dispatch.find(zoo.tiny_config("llava"))
    assert found.advice == {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, LOSSES[0]: True}


def test_the_docs_hold_what_was_measured():
    from matrix import DOCS, with_tables

    page = DOCS.read_text(encoding="utf-8")
    assert page == with_tables(page)
    assert "| llama | yes | yes |" in page

"""The tiny models that loss kernels are compared on: each builds, learns from both batches, and is the same every time."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from longline.testing import zoo

LACKING = zoo.missing()
THERE = [name for name in zoo.TYPES if name not in LACKING]


@pytest.mark.parametrize("model_type", THERE)
def test_a_type_has_a_finite_loss_and_is_always_the_same(model_type):
    model, again = zoo.build(model_type), zoo.build(model_type)
    weights = dict(again.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for batch in zoo.batches(model).values():
        first, second = (one(**batch, use_cache=False).loss.item() for one in (model, again))
        assert first == second
        assert 3 < first < 9  # that of a guess is 5.5


@pytest.mark.parametrize("model_type", THERE)
def test_no_parameter_is_trivial(model_type):
    for name, parameter in zoo.build(model_type).named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.numel() == 1 or (parameter != 0).float().mean() > 0.5, name
        assert parameter.numel() < 300_000, f"{name} is not tiny: {tuple(parameter.shape)}"


def test_the_batches_are_as_the_collator_makes_them():
    batches = zoo.batches(zoo.build("llama"))
    assert list(batches["padded"]) == ["input_ids", "attention_mask", "labels"]
    assert batches["padded"]["attention_mask"].sum(1).tolist() == [16, 12]
    packed = batches["packed"]
    assert "attention_mask" not in packed
    assert packed["position_ids"][1].tolist() == [0, 1, 2, 3, *range(8), 0, 1, 2, 3]
    assert (packed["labels"][packed["position_ids"] == 0] == -100).all()  # no sample is predicted by the one before it
    for batch in batches.values():
        assert 0.2 < (batch["labels"] == -100).float().mean() < 0.5
        assert int(batch["input_ids"].max()) < zoo.VOCABULARY - 32


def test_layers_of_every_kind_are_met():
    kinds = zoo.build("qwen3_5").config.text_config.layer_types
    assert kinds == ["linear_attention", "full_attention"]
    assert len(zoo.build("nemotron_h").model.layers) == 4


def test_settings_reach_the_text_part():
    assert zoo.build("gemma2", final_logit_softcapping=3.0).config.final_logit_softcapping == 3.0
    tied = zoo.build("qwen2_vl", tie_word_embeddings=True)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    untied = zoo.build("gemma", tie_word_embeddings=False)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


def test_what_is_missing_is_named_with_the_reason():
    assert LACKING["pixtral"] == "a tower for pictures: it has no loss"
    assert "llama" not in LACKING
    assert zoo.missing(["llama", "no_such_type"]) == {"no_such_type": "the installed transformers has no such type"}
    with pytest.raises(ValueError, match="qwen3_vl_text: transformers has no class with a text loss"):
        zoo.build("qwen3_vl_text")


def test_the_random_state_outside_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zoo.build("llama")
    assert torch.equal(torch.rand(3), expected)


def test_the_module_imports_no_torch():
    code = "import sys, longline.testing.zoo; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

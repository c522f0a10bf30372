"""Every model type of the matrix, measured again; the checked-in result is what the docs show."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from longline.testing import zoo

SPEC = spec_from_file_location("cce_matrix", Path(__file__).with_name("matrix.py"))
matrix = module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)
RESULT = json.loads(matrix.RESULT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("model_type", sorted(RESULT["types"]))
def test_a_type_has_the_loss_and_the_gradients_of_the_plain_model(model_type):
    measured = matrix.of_type(model_type)
    assert all(all(batches.values()) for batches in measured["variants"].values()), measured
    assert measured == RESULT["types"][model_type], f"python {matrix.__file__} --write"


def test_every_type_of_the_zoo_is_in_the_matrix():
    assert RESULT["types"].keys() | RESULT["missing"].keys() == set(matrix.TYPES)
    assert RESULT["missing"] == {}


def test_variants_are_met_somewhere():
    met = {name for row in RESULT["types"].values() for name in row["variants"]}
    assert met >= {"tied", "untied", "bias", "softcap 2", "logit_scale 0.3", "logits_scaling 4.0"}


def test_a_wrong_loss_would_be_seen():
    from longline_cce.choice import Choice

    class Wrong(Choice):
        def loss(self, product, targets, softcap):
            return super().loss(product.scaled(1.001), targets, softcap)

    model = zoo.build("llama")
    batch = zoo.batches(model)["padded"]
    settings = ("chunked", "", {"tokens": 5})
    assert matrix.within(matrix.compare(model, batch, Choice(*settings)))
    assert not matrix.within(matrix.compare(model, batch, Wrong(*settings)))


def test_the_table_has_a_row_for_each_type():
    text = matrix.markdown(RESULT)
    assert "| `llama` | `LlamaForCausalLM` | yes | yes |" in text
    assert "| `qwen3_next` | `Qwen3NextForCausalLM` | yes | yes |" in text

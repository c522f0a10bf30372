"""From the names of a checkpoint, or of a GGUF file, to the weights of a loaded model, of many types."""

from __future__ import annotations

from collections import defaultdict

import pytest

from longline.errors import LonglineError
from longline.testing import zoo
from longline_spectrum import files, upstream
from longline_spectrum.freezing import freeze
from longline_spectrum.gguf_file import canonical
from longline_spectrum.scan import Row, Scan
from longline_spectrum.units import Unit, by_kind, units

TYPES = [
    *("llama", "qwen3", "gemma3", "phi3", "glm4", "nemotron_h", "qwen3_next", "falcon_h1", "smolvlm", "qwen2_5_vl"),
    *("qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss", "granitemoe", "llama4_text", "hunyuan_v1_moe", "step3p5"),
]
"""Dense ones, ones with pictures, with experts one by one and in one weight, with other layers than attention. Once the same was
seen with all that the zoo has."""


def scan_of(found, gguf=None):
    return Scan("a model", "", tuple(Row(unit, 1.0, {}) for unit in found), {}, gguf)


@pytest.mark.parametrize("type_", TYPES)
def test_every_unit_is_found_in_the_loaded_model(type_, tmp_path):
    model = zoo.build(type_)
    model.save_pretrained(tmp_path)
    found, _ = units(files.opened(str(tmp_path)))
    trained = freeze(model, scan_of(found), found, ())
    biases = sum(weight.numel() for name, weight in model.named_parameters() if name in trained.names and name.endswith("bias"))
    assert trained.count - biases == sum(unit.weights for unit in found)
    weights = dict(model.named_parameters())
    assert all(weight.requires_grad == (name in trained.names) for name, weight in weights.items())
    for members in by_kind(found).values():  # one kind of one layer alone
        one = freeze(model, scan_of(found), members[:1], ())
        assert one.count >= members[0].weights
        assert {name.split(".")[-2] for name in one.names} <= {name.split(".")[-2] for name in trained.names}


@pytest.mark.parametrize(
    ("type_", "arch"), [("llama", "llama"), ("qwen3_moe", "qwen3moe"), ("phi3", "phi3"), ("gemma3_text", "gemma3")]
)
def test_every_unit_of_a_gguf_file_is_found_in_the_loaded_model(type_, arch):
    model = zoo.build(type_)
    layers = model.config.num_hidden_layers
    theirs, name = upstream.names_in_gguf(arch, layers), canonical(arch, layers)
    found, expected = defaultdict(set), set()
    for weight in dict(model.named_parameters()):
        for text in (weight, weight.replace("gate_up_proj", "gate_proj") + ".weight" if "experts" in weight else weight):
            base = text.removesuffix(".weight")
            if base in theirs and ".layers." in base and "norm" not in base and "mlp.gate.weight" not in weight:
                called = name(f"{theirs[base]}.weight", 3 if "experts" in base else 2)
                found[called].add(weight)
                expected.add(weight)
    made = []
    for called in found:
        _, _, layer, kind = called.removesuffix(".weight").split(".", 3)
        made.append(Unit("model.layers", int(layer), kind, (64, 64), 1, 4 if "*" in called else 0, (called,)))
    assert len(made) > 6
    assert set(freeze(model, scan_of(made, (arch, layers)), made, ()).names) == expected


def test_a_scan_of_another_model_is_refused():
    model = zoo.build("llama")
    other = Unit("model.layers", 7, "mlp.up_proj", (64, 64), 1, 0, ("model.layers.7.mlp.up_proj.weight",))
    with pytest.raises(LonglineError, match="is no weight of LlamaForCausalLM"):
        freeze(model, scan_of([other]), [other], ())


def test_what_always_names_must_be_there():
    with pytest.raises(LonglineError, match="OlmoForCausalLM has no norms that could be trained"):
        freeze(zoo.build("olmo"), scan_of([]), [], ("norms",))


def test_matrices_that_a_model_keeps_in_one_weight_cannot_be_told_apart():
    model = zoo.build("qwen3_moe")
    gate, up = (
        Unit("model.layers", 0, f"mlp.experts.{part}", (32, 64), 1, 4, (f"model.layers.0.mlp.experts.*.{part}.weight",))
        for part in ("gate_proj", "up_proj")
    )
    with pytest.raises(
        LonglineError, match=r"mlp\.experts\.up_proj, which was not chosen, and one that was in the same weight"
    ):
        freeze(model, scan_of([gate, up]), [gate], ())


def test_a_tied_head_is_the_embeddings():
    tied = zoo.build("gemma")
    names = freeze(tied, scan_of([]), [], ("head",)).names
    assert names == freeze(tied, scan_of([]), [], ("embeddings",)).names == ("model.embed_tokens.weight",)

"""Models with towers for pictures or sound: trained on text, from a config like any other."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.testing import tiny_tokenizer, zoo

TOWERS = ("vision", "visual", "audio", "projector", "patch")


@pytest.fixture
def folder_of(tmp_path):
    """Return a function that writes a tiny model of a type with the test kit's tokenizer."""

    def write(model_type):
        tokenizer, folder = tiny_tokenizer(), tmp_path / model_type
        model = zoo.build(model_type, vocab_size=len(tokenizer), max_position_embeddings=256)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


LACK_SDPA = [name for name in zoo.TYPES if name not in zoo.missing() and not zoo.model_class(name)._supports_sdpa]


def test_some_types_lack_sdpa():
    assert {"gemma2", "gpt_oss"} <= set(LACK_SDPA)


@pytest.mark.parametrize(
    ("model_type", "taken"), [("llama", "sdpa"), ("llava", "sdpa"), *((name, "eager") for name in LACK_SDPA)]
)
def test_a_model_takes_the_best_attention_that_it_has_and_plan_says_which(
    run_config, run_longline, folder_of, capsys, model_type, taken
):
    seen = {}

    class Look(Plugin):
        @hookimpl
        def post_model_load(self, model):
            seen[type(model).__name__] = model.config._attn_implementation

    config = run_config(model={"path": str(folder_of(model_type))}, trainer={"max_steps": 2})
    outcome = run_longline(config, plugins=[Look(PluginConfig())])
    (name,) = seen
    assert (seen[name], outcome.manifest["status"], outcome.manifest["plan"]["attention"]) == (taken, "completed", taken)
    capsys.readouterr()
    assert run_cli(["plan", str(config), "--json"]) == 0
    (fact,) = [fact for fact in json.loads(capsys.readouterr().out)["facts"] if fact["name"] == "attention"]
    assert (fact["value"], fact["why"]) == (taken, f"the best that {name} has")


def test_the_best_attention_keeps_packed_samples_apart(run_longline, folder_of, tmp_path):
    path = {"path": str(folder_of("gemma2"))}
    losses = [
        run_longline(
            model=path,
            data={"packing": packing},
            trainer={"max_steps": 1, "per_device_train_batch_size": 64},
            output_dir=str(tmp_path / f"packing-{packing}"),
        ).log[0]["loss"]
        for packing in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_plan_says_what_it_does_not_know_of_a_model_out_of_reach(run_config, capsys):
    config = run_config(model={"path": "nobody/is-here"})
    assert run_cli(["plan", str(config)]) == 0
    assert "sdpa, else eager" in capsys.readouterr().out


def weights(folder):
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "mistral3", "voxtral"])
def test_text_is_learnt_and_towers_stay_as_they_are(run_longline, folder_of, model_type):
    before = weights(folder_of(model_type))
    outcome = run_longline(model={"path": str(folder_of(model_type))}, trainer={"max_steps": 2, "learning_rate": 0.01})
    after = weights(outcome.output_dir / "model")
    assert before.keys() == after.keys()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    towers = {name for name in before if any(part in name for part in TOWERS)}
    assert towers
    assert not changed & towers
    assert len(changed) > len(before.keys() - towers) / 2
    model = AutoModelForMultimodalLM.from_pretrained(outcome.output_dir / "model")
    assert type(model).__name__.endswith("ForConditionalGeneration")


def test_an_adapter_on_one(run_longline, folder_of):
    adapter = {"type": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}
    outcome = run_longline(model={"path": str(folder_of("llava"))}, adapter=adapter, trainer={"max_steps": 2})
    assert outcome.manifest["status"] == "completed"

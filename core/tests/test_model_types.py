"""Models with towers for pictures or sound: trained on text, from a config like any other."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.errors import ModelError
from longline.testing import tiny_tokenizer, zoo
from longline.trainers.isolation import require_isolation

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


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "mixtral", "llava", "qwen3_vl", "internvl"])
def test_packed_samples_are_kept_apart(run_longline, folder_of, tmp_path, capsys, model_type):
    """Where the text part has a config of its own, that one switches its cache, with which samples would mix."""
    path = {"path": str(folder_of(model_type))}
    outcomes = [
        run_longline(
            model=path,
            data={"packing": packing},
            trainer={"max_steps": 1, "per_device_train_batch_size": 64},
            output_dir=str(tmp_path / f"packing-{packing}"),
        )
        for packing in (False, True)
    ]
    losses = [outcome.log[0]["loss"] for outcome in outcomes]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    saved = json.loads((outcomes[1].output_dir / "model" / "config.json").read_text())
    assert {part.get("use_cache") for part in (saved, saved.get("text_config", saved))} <= {True, None}
    shown = capsys.readouterr().out.split("prepared in", 2)[2]
    assert f"  attention  {'eager' if model_type == 'gemma2' else 'sdpa'}" in shown, "the model is loaded, so it is known"


@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        ("opt", "float32"),  # no positions in its mask
        ("gpt_oss", "float32"),  # the same, under eager
        ("qwen2_vl", "bfloat16"),  # positions in three directions
        ("mamba", "float32"),
        ("falcon_h1", "bfloat16"),  # state beside attention: the weakest leak of all types
    ],
)
def test_a_model_that_mixes_packed_samples_is_refused_before_the_first_step(
    run_longline, folder_of, tmp_path, model_type, dtype
):
    steps = []

    class Count(Plugin):
        @hookimpl
        def on_step_end(self, step):
            steps.append(step)

    settings = {"model": {"path": str(folder_of(model_type)), "dtype": dtype}, "trainer": {"max_steps": 1}}
    with pytest.raises(ModelError, match=f"attention {model_type} does not keep packed samples apart") as caught:
        run_longline(plugins=[Count(PluginConfig())], data={"packing": True}, **settings)
    assert not steps
    assert caught.value.hint == "set data.packing: false"
    alone = run_longline(plugins=[Count(PluginConfig())], output_dir=str(tmp_path / "alone"), **settings)
    assert (steps, alone.manifest["status"]) == ([1], "completed")


def test_another_attention_that_would_do_is_named(run_longline, folder_of, tmp_path):
    path = str(folder_of("paligemma"))
    with pytest.raises(ModelError, match="sdpa attention paligemma") as caught:
        run_longline(model={"path": path}, data={"packing": True})
    assert caught.value.hint == "set data.packing: false, or model.attn_implementation: eager"
    losses = [
        run_longline(
            model={"path": path, "attn_implementation": "eager"},
            data={"packing": packing},
            trainer={"max_steps": 1, "per_device_train_batch_size": 64},
            output_dir=str(tmp_path / f"packing-{packing}"),
        ).log[0]["loss"]
        for packing in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("model_type", ["llama", "mixtral", "gemma3_text"])
def test_rounding_routes_and_dropout_are_no_leak(run_longline, folder_of, model_type, dtype):
    model = {"path": str(folder_of(model_type)), "dtype": dtype, "overrides": {"attention_dropout": 0.5}}
    adapter = {"type": "lora", "r": 4, "lora_dropout": 0.5, "target_modules": ["q_proj", "v_proj"]}
    outcome = run_longline(model=model, adapter=adapter, data={"packing": True}, trainer={"max_steps": 1})
    assert outcome.manifest["status"] == "completed"
    assert not outcome.hooks("on_alert")


def test_weights_that_let_nobody_see_are_told(run_longline, folder_of, capsys):
    class Zero(Plugin):
        @hookimpl
        def post_model_load(self, model):
            for layer in model.model.layers:
                torch.nn.init.zeros_(layer.self_attn.o_proj.weight)

    model = {"path": str(folder_of("llama"))}
    outcome = run_longline(plugins=[Zero(PluginConfig())], model=model, data={"packing": True}, trainer={"max_steps": 1})
    assert outcome.manifest["status"] == "completed"
    assert "a token has no effect on those behind it" in capsys.readouterr().out


def test_the_probe_leaves_the_run_as_it_was_and_is_quick(run_longline):
    seen = {}

    class Again(Plugin):
        @hookimpl
        def on_train_begin(self, trainer):
            def now():
                state = torch.get_rng_state(), *(parameter.detach().clone() for parameter in trainer.model.parameters())
                return state, [module.training for module in trainer.model.modules()]

            trainer.model.model.layers[0].eval()
            before, begin = now(), time.perf_counter()
            require_isolation(trainer)
            seen["seconds"] = time.perf_counter() - begin
            after = now()
            seen["same"] = before[1] == after[1] and all(map(torch.equal, before[0], after[0]))
            seen["gradients"] = any(parameter.grad is not None for parameter in trainer.model.parameters())

    run_longline(plugins=[Again(PluginConfig())], data={"packing": True}, trainer={"max_steps": 1})
    assert (seen["same"], seen["gradients"]) == (True, False)
    assert seen["seconds"] < 0.5


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

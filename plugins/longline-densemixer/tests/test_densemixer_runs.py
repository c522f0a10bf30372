"""Real runs: what changes and what does not, on one rank and on two, with adapters and checkpoints; and what is refused when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longline.cli import run_cli
from longline.errors import LonglineError
from longline.testing import tiny_tokenizer, zoo
from longline_densemixer.plugin import METRIC, DenseMixerPlugin

EXAMPLE = Path(__file__).parents[3] / "examples" / "densemixer"
PLUGINS = [{"densemixer": {"pairs": 100}}]


def weights_of(outcome, folder="model"):
    return load_file(outcome.output_dir / folder / "model.safetensors")


def losses(outcome):
    return [event["loss"] for event in outcome.log if "loss" in event]


def close(found, expected):
    return all(torch.allclose(found[name], weight, rtol=1e-3, atol=2e-5) for name, weight in expected.items())


def test_only_what_the_routers_gradient_reaches_changes(run_longline, mixture_dir, tmp_path):
    """After one step of SGD: the output of the first batch is the plain one, and the last layer's experts are, to the bit."""
    options = {
        "model": {"path": str(mixture_dir)},
        "trainer": {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0, "learning_rate": 0.1},
    }
    plain = run_longline(**options, output_dir=str(tmp_path / "plain"))
    ours = run_longline(**options, plugins=PLUGINS, output_dir=str(tmp_path / "ours"))
    assert losses(ours) == losses(plain)
    first, then = weights_of(plain), weights_of(ours)
    same = {name for name in first if torch.equal(first[name], then[name])}
    assert {name for name in first if "layers.1.mlp.experts" in name} <= same
    assert not any(name.endswith("mlp.gate.weight") for name in same)
    assert 0.5 < next(event[METRIC] for event in ours.log if "loss" in event) < 1


def test_two_ranks_equal_one_process(run_longline, run_process, mixture_dir, tmp_path):
    """FSDP2 with activations computed again: experts are gathered and run in the backward pass. DDP is in the checklist below."""
    trainer, model = {"max_steps": 4, "per_device_train_batch_size": 4}, {"path": str(mixture_dir)}
    plain = run_longline(model=model, trainer=trainer, output_dir=str(tmp_path / "plain"))
    one = run_longline(model=model, trainer=trainer, plugins=PLUGINS, output_dir=str(tmp_path / "one"))
    assert not close(weights_of(one), weights_of(plain))
    trainer = {**trainer, "per_device_train_batch_size": 2, "fsdp": True, "gradient_checkpointing": True}
    two = run_process(ranks=2, model=model, plugins=PLUGINS, trainer=trainer, output_dir=str(tmp_path / "two"))
    assert two.code == 0, two.text
    assert two.text.count("densemixer, gradients of all experts") == 1
    assert close(weights_of(two), weights_of(one))


ADAPTERS = {
    "experts and routers": {
        "target_modules": [],
        "target_parameters": ["gate.weight", "experts.gate_up_proj", "experts.down_proj"],
    },
    "routers saved": {"target_modules": ["q_proj"], "modules_to_save": ["gate"]},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_train_with_the_gradient_of_all_experts(run_longline, mixture_dir, tmp_path, name):
    options = {
        "model": {"path": str(mixture_dir)},
        "adapter": {"type": "lora", "r": 2, **ADAPTERS[name]},
        "trainer": {"max_steps": 3},
    }
    plain = run_longline(**options, output_dir=str(tmp_path / "plain"))
    ours = run_longline(**options, plugins=PLUGINS, output_dir=str(tmp_path / "ours"))
    first, then = (load_file(run.output_dir / "model" / "adapter_model.safetensors") for run in (plain, ours))
    assert first.keys() == then.keys()
    assert any("gate" in key and not torch.equal(first[key], then[key]) for key in first)
    assert losses(ours)[0] == losses(plain)[0]
    assert not [alert for alert in ours.hooks("on_alert") if "no router" in alert]


def test_frozen_routers_are_told(run_longline, mixture_dir):
    adapter = {"type": "lora", "r": 2, "target_modules": ["q_proj"]}
    outcome = run_longline(model={"path": str(mixture_dir)}, adapter=adapter, plugins=PLUGINS, trainer={"max_steps": 1})
    assert [alert for alert in outcome.hooks("on_alert") if "no router is trained" in alert]


def test_mixed_precision_and_checkpointing_find_the_same_rule(run_longline, mixture_dir, tmp_path):
    options = {"model": {"path": str(mixture_dir), "dtype": "float32"}, "plugins": PLUGINS}
    runs = [
        run_longline(**options, trainer={"max_steps": 3, **trainer}, output_dir=str(tmp_path / str(number)))
        for number, trainer in enumerate(({}, {"bf16": True}, {"gradient_checkpointing": True}))
    ]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=2e-2)
    assert losses(runs[2]) == pytest.approx(losses(runs[0]), rel=1e-5)
    assert len({tuple(run.hooks("on_fact")) for run in runs}) >= 1
    for run in runs:
        assert any("softmax, renormalised" in fact for fact in run.hooks("on_fact"))


def test_it_is_well_behaved(assert_well_behaved, mixture_dir):
    """Resumed on one rank and on two, beside others, with failures, in every command."""
    assert_well_behaved(DenseMixerPlugin, {"pairs": 64}, model={"path": str(mixture_dir)})


def test_a_preference_method_trains_with_it(run_longline, mixture_dir, preference_rows, tmp_path):
    options = {
        "method": "dpo",
        "model": {"path": str(mixture_dir)},
        "data": {"train": [{"path": str(preference_rows)}]},
    }
    runs = [
        run_longline(**options, trainer={"max_steps": 3}, plugins=plugins, output_dir=str(tmp_path / str(len(plugins))))
        for plugins in ([], PLUGINS)
    ]
    assert losses(runs[1])[0] == losses(runs[0])[0]
    assert losses(runs[1])[2] != losses(runs[0])[2]


# --- refused ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "plan", "train"])
@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "model.path: densemixer: not applied: a model of type llama is dense: it has no mixture of experts"),
        ({"trainer": {"torch_compile": True}}, "densemixer: not shown to be right beside trainer.torch_compile"),
        (
            {"trainer": {"deepspeed": {"zero_optimization": {"stage": 3}}}},
            "densemixer: not shown to be right beside DeepSpeed ZeRO-3",
        ),
    ],
    ids=["dense", "compiled", "zero-3"],
)
def test_refused_before_a_run(run_config, capsys, tmp_path, command, more, text):
    assert run_cli([command, str(run_config(plugins=PLUGINS, **more))]) in (2, 3)
    assert text in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


CONFIGS = {
    "phimoe": ({"model_type": "phimoe"}, "a model of type phimoe: PhimoeTopKRouter: no rule that is known gives its weights"),
    "none": (
        {"model_type": "granitemoehybrid", "num_local_experts": 0},
        "this model of type granitemoehybrid is dense: its config has no experts",
    ),
    "a part": ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "a model of type gemma3 is dense"),
    "switched off": ({"model_type": "gemma4_text", "enable_moe_block": False}, "this model of type gemma4_text is dense"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_tells(run_config, capsys, tmp_path, name):
    config, text = CONFIGS[name]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert run_cli(["check", str(run_config(model={"path": str(tmp_path / "model")}, plugins=PLUGINS))]) == 3
    assert text in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"model_type": 3}', '{"model_type": "of_tomorrow"}'])
def test_a_config_that_tells_nothing_is_for_others_to_refuse(run_config, tmp_path, text):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(text)
    assert run_cli(["check", str(run_config(model={"path": str(tmp_path / "model")}, plugins=PLUGINS))]) == 0


def test_a_router_without_a_rule_ends_the_run_before_training(run_longline, tmp_path):
    """Its config.json does not tell here: the run looks at the model."""
    folder = tmp_path / "model"
    tokenizer = tiny_tokenizer()
    zoo.build("phimoe", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(LonglineError, match="PhimoeTopKRouter: no rule that is known gives its weights"):
        run_longline(model={"path": str(folder)}, plugins=PLUGINS)
    assert not list((tmp_path / "run").glob("model*"))


# --- told -------------------------------------------------------------------------------------------------------------------------


def test_plan_tells_layers_experts_and_cost(run_config, capsys, mixture_dir):
    assert run_cli(["plan", str(run_config(model={"path": str(mixture_dir)}, plugins=PLUGINS))]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "gives the routers of 2 layers a gradient from all 16 experts; the forward pass stays as it is" in told
    assert "the 14 experts that a token did not go to as well: about 3.3 times the arithmetic of the experts" in told
    assert "routers of type qwen3_moe follow softmax, renormalised, as the tests found; the run looks at them again" in told


def test_doctor_counts_mixtures(run_config, capsys, mixture_dir):
    assert run_cli(["doctor", str(run_config(model={"path": str(mixture_dir)}, plugins=PLUGINS))]) == 0
    assert "model types of transformers call experts as this plugin needs it" in capsys.readouterr().out


def test_the_run_tells_what_it_found(run_longline, mixture_dir, tmp_path, capsys):
    outcome = run_longline(model={"path": str(mixture_dir)}, plugins=PLUGINS, trainer={"max_steps": 1})
    told = capsys.readouterr().out
    assert "2       Qwen3MoeTopKRouter  softmax, renormalised  16       2 of 16" in told
    assert len(outcome.hooks("on_table")) == 1
    more = {"trainer": {"max_steps": 1}, "output_dir": str(tmp_path / "off")}
    off = run_longline(model={"path": str(mixture_dir)}, plugins=[{"densemixer": {"metrics": False}}], **more)
    assert [METRIC in event for event in outcome.log if "loss" in event] == [True]
    assert [METRIC in event for event in off.log if "loss" in event] == [False]


def test_the_example_trains(mixture_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLE.parents[1])
    sets = (
        f"model.path={mixture_dir}",
        f"output_dir={tmp_path}/run",
        "trainer.max_steps=2",
        f"data.cache_dir={tmp_path}/cache",
    )
    assert run_cli(["train", str(EXAMPLE / "config.yaml"), *(word for item in sets for word in ("--set", item))]) == 0
    assert METRIC in (tmp_path / "run" / "log.jsonl").read_text()

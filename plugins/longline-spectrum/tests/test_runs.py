"""Real runs of a tiny model: what is chosen changes, all else stays as it is to the last bit, on one rank and on two."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from longline import LonglineError, Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.testing import MemoryTracker
from longline_spectrum import files, kept
from longline_spectrum.choice import pick
from longline_spectrum.plugin import SpectrumPlugin

HALF = {"spectrum": {"top_fraction": 0.5}}


def apart(model, folder):
    """The names of the weights that are not those of the base, to the last bit."""
    before, after = load_file(model / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


def chosen(model, fraction=0.5, **options):
    """The names of the weights that a scan of the model chooses."""
    kinds = pick(kept.make(files.opened(str(model))), fraction, **options)
    return {name for kind in kinds for row in kind.trained for name in row.unit.names()}


def test_what_is_chosen_is_trained_and_the_rest_stays_bit_for_bit(run_longline, tiny_model_dir, tmp_path, capsys):
    tracker = MemoryTracker()
    run = run_longline(plugins=[HALF, tracker], trainer={"weight_decay": 0.1})
    expected = chosen(tiny_model_dir)
    assert len(expected) == 7
    assert apart(tiny_model_dir, run.output_dir) == expected
    assert "trains 9.22k of " in run.manifest["plan"]["spectrum"]
    (table,) = [table for table in tracker.tables if table.name == "spectrum"]
    assert {row[0]: row[1] for row in table.rows}["mlp.down_proj"] == "1 of 2"
    assert sum(row[3] for row in table.rows) == 9216
    first = capsys.readouterr()
    assert "scanning" in first.err
    assert "q_proj: 1 of 2 layers: " in first.out
    again = run_longline(plugins=[HALF], output_dir=str(tmp_path / "again"))
    assert "scanning" not in capsys.readouterr().err
    assert apart(tiny_model_dir, again.output_dir) == expected


@pytest.mark.parametrize("always", ["embeddings", "head", "norms"])
def test_what_is_always_trained(always, run_longline, tiny_model_dir):
    options = {"top_fraction": 0.5, "kinds": ["q_proj"], "always": [always], "threshold": "published"}
    run = run_longline(plugins=[{"spectrum": options}])
    beside = apart(tiny_model_dir, run.output_dir) - chosen(tiny_model_dir, kinds=["q_proj"], threshold="published")
    names = {"embeddings": "embed_tokens", "head": "lm_head", "norms": "norm"}
    assert beside == {name for name in load_file(tiny_model_dir / "model.safetensors") if names[always] in name}


def test_the_plan_tells_of_a_scan_to_come_and_then_of_layers(run_config, tiny_model_dir, capsys):
    config = str(run_config(plugins=[{"spectrum": {"top_fraction": 0.5, "always": ["norms"]}}]))
    assert run_cli(["plan", config, "--json"]) == 0
    before = plan_of(capsys)
    assert before[0].startswith(f"scans the 14 matrices of {tiny_model_dir} first, once")
    assert before[1].startswith("trains about 9.38k of ")
    assert before[2].startswith("1 of 2 layers, as the scan will say, of mlp.down_proj, mlp.gate_proj, ")
    assert run_cli(["spectrum", "scan", str(tiny_model_dir)]) == 0
    capsys.readouterr()
    assert run_cli(["plan", config, "--json"]) == 0
    after = plan_of(capsys)
    layer = {
        row.unit.kind: row.unit.layer
        for kind in pick(kept.make(files.opened(str(tiny_model_dir))), 0.5)
        for row in kind.trained
    }
    assert after[0].startswith("trains 9.38k of ")
    assert any(
        line.startswith(f"self_attn.q_proj: 1 of 2 layers: {layer['self_attn.q_proj']}; signal to noise ") for line in after
    )
    assert "norms: 160 weights, always" in after


def plan_of(capsys):
    (plugin,) = json.loads(capsys.readouterr().out)["plugins"]
    return plugin["plan"]


def test_a_scan_is_taken_from_a_file_or_from_another_model(run_config, run_longline, tiny_model_dir, tmp_path, capsys):
    other = tmp_path / "other"
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for layer, block in enumerate(model.model.layers):  # all signal in one layer, so that it is chosen
        block.mlp.up_proj.weight.data += 5 * layer * torch.randn(64, 1) @ torch.randn(1, 32)
    model.save_pretrained(other)
    assert run_cli(["spectrum", "scan", str(other), "--output", str(tmp_path / "other.json")]) == 0
    for number, options in enumerate(({"model": str(other)}, {"scan": str(tmp_path / "other.json")})):
        options |= {"top_fraction": 0.5, "kinds": ["up_proj"]}
        run = run_longline(plugins=[{"spectrum": options}], output_dir=str(tmp_path / f"run{number}"))
        assert apart(tiny_model_dir, run.output_dir) == {"model.layers.1.mlp.up_proj.weight"}
        assert "other" in next(fact for fact in run.calls if fact.startswith("on_fact(name=spectrum"))


@pytest.mark.parametrize("options", [{"kinds": ["q_proj"]}, {"threshold": "published"}])
def test_a_resume_with_other_weights_is_refused(options, run_longline, tmp_path, tiny_model_dir):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    run_longline(plugins=[HALF], trainer=saving)
    if "threshold" in options:
        assert chosen(tiny_model_dir) != chosen(tiny_model_dir, threshold="published")
    with pytest.raises(LonglineError) as told:
        run_longline(
            plugins=[{"spectrum": {"top_fraction": 0.5, **options}}], trainer={**saving, "max_steps": 4}, resume="last"
        )
    assert "the checkpoint trained 7 tensors, and this run trains " in str(told.value)
    again = run_longline(
        plugins=[{"spectrum": {"top_fraction": 0.5, **options}}],
        trainer={**saving, "max_steps": 4},
        resume="last",
        weights_only=True,
    )
    assert again.result.status == "completed"


def test_recomputed_activations_give_the_same_run(run_longline, tmp_path):
    plain = run_longline(plugins=[HALF], output_dir=str(tmp_path / "plain"))
    saved = run_longline(plugins=[HALF], trainer={"activation_checkpointing": True}, output_dir=str(tmp_path / "saved"))
    one, two = (load_file(run.output_dir / "model" / "model.safetensors") for run in (plain, saved))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_a_reference_and_a_new_head(run_longline, tiny_model_dir, preference_rows, tmp_path):
    data = {"train": [{"path": str(preference_rows), "format": "preference"}]}
    dpo = run_longline(method="dpo", data=data, plugins=[HALF], trainer={"max_steps": 2}, output_dir=str(tmp_path / "dpo"))
    assert apart(tiny_model_dir, dpo.output_dir) == chosen(tiny_model_dir)
    reward = run_longline(
        method="reward", data=data, plugins=[HALF], trainer={"max_steps": 2}, output_dir=str(tmp_path / "reward")
    )
    base, tuned = load_file(tiny_model_dir / "model.safetensors"), load_file(reward.output_dir / "model" / "model.safetensors")
    assert {name for name in tuned if name in base and not torch.equal(base[name], tuned[name])} == chosen(tiny_model_dir)
    state = [line for line in reward.calls if "spectrum" in line]
    assert any("9.25k" in line for line in state)  # 9,216 and a head of 32


class Thaw(Plugin):
    """Trains what was frozen."""

    Config = PluginConfig

    @hookimpl
    def post_model_load(self, model):
        model.requires_grad_(True)


def test_another_plugin_that_thaws_is_seen(run_longline):
    with pytest.raises(LonglineError, match="weights are frozen or trained otherwise than was chosen"):
        run_longline(plugins=[HALF, Thaw(PluginConfig())])


def test_two_sharded_ranks_train_what_one_does(run_process, run_longline, tiny_model_dir, tmp_path):
    one = run_longline(
        plugins=[HALF], trainer={"max_steps": 3, "per_device_train_batch_size": 4}, output_dir=str(tmp_path / "one")
    )
    trainer = {"max_steps": 3, "per_device_train_batch_size": 2, "fsdp": True}
    options = SpectrumPlugin.Config(top_fraction=0.5)
    two = run_process(plugins=[SpectrumPlugin(options)], ranks=2, trainer=trainer, output_dir=str(tmp_path / "two"))
    assert two.code == 0, two.text
    assert two.text.count("q_proj: 1 of 2 layers") == 1
    assert apart(tiny_model_dir, two.output_dir) == chosen(tiny_model_dir)
    first, second = (load_file(run.output_dir / "model" / "model.safetensors") for run in (one, two))
    assert all(torch.allclose(first[name], second[name], atol=2e-5) for name in first)


def test_a_refusal_before_the_run_has_its_place(run_longline):
    with pytest.raises(LonglineError, match=r"plugins\.spectrum\.top_fraction"):
        run_longline(plugins=[{"spectrum": {"top_fraction": 1.0}}])

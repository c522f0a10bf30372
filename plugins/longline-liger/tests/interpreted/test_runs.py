"""Whole runs with Liger's kernels: the same losses and weights as without, the table, what is refused, and what is left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama import modeling_llama

from longline.cli import run_cli
from longline.errors import PluginError
from longline.testing import tiny_tokenizer, zoo
from longline_liger.plugin import LigerPlugin

TRAINER = {
    "max_steps": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
}
LAYERS = {"rope": True, "rms_norm": True, "glu_activation": True}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Return a function that writes a tiny model of a type, with the test kit's tokenizer, and returns its folder."""

    def write(model_type):
        folder = tmp_path_factory.getbasetemp() / f"tiny-{model_type}"
        if not folder.exists():
            tokenizer = tiny_tokenizer()
            model = zoo.build(model_type, vocab_size=len(tokenizer), max_position_embeddings=128)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def short_rows(tmp_path_factory):
    """Conversations of about 16 tokens: the interpreter takes a millisecond for a row of a kernel."""
    path = tmp_path_factory.getbasetemp() / "short.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a" * (1 + index % 3)},
                {"role": "assistant", "content": f"{index} {index % 5}"},
            ]
        }
        for index in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(run_longline, folder_of, short_rows, tmp_path):
    """Return a function that trains and returns losses, evaluation losses and final weights."""
    count = iter(range(100))

    def run(options=None, model_type="llama", method="sft", **more):
        name = tmp_path / f"run{next(count)}"
        trainer = {**TRAINER, **more.pop("trainer", {})}
        data = {"train": [{"path": str(short_rows)}], "max_length": 24, **more.pop("data", {})}
        plugins = [*more.pop("plugins", []), *([] if options is None else [{"liger": options}])]
        attention = "eager" if model_type == "gemma2" else "sdpa"
        model = {"path": str(folder_of(model_type)), "attn_implementation": attention, **more.pop("model", {})}
        outcome = run_longline(
            plugins=plugins, model=model, method=method, data=data, trainer=trainer, output_dir=str(name), **more
        )
        losses = [event["loss"] for event in outcome.log if "loss" in event]
        evals = [event["eval_loss"] for event in outcome.log if "eval_loss" in event]
        file = next(path for path in (name / "model").iterdir() if path.suffix == ".safetensors")
        return losses, evals, load_file(file)

    return run


def same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1] == pytest.approx(other[1], rel=1e-5)
    assert one[2].keys() == other[2].keys()
    for name, weight in one[2].items():
        assert float((weight - other[2][name]).norm() / weight.norm()) < 1e-5, name


@pytest.fixture(autouse=True)
def untouched():
    """After every test the process is as it was before."""
    names = {name: value for name, value in vars(modeling_llama).items() if not name.startswith("__")}
    cross_entropy, forward = torch.nn.functional.cross_entropy, modeling_llama.LlamaForCausalLM.forward
    yield
    assert {name: vars(modeling_llama)[name] for name in names} == names
    assert torch.nn.functional.cross_entropy is cross_entropy
    assert modeling_llama.LlamaForCausalLM.forward is forward


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2"])
def test_a_run_with_every_kernel_is_the_run_without(train, model_type, capsys):
    evaluated = {"data": {"eval_fraction": 0.1}, "trainer": {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2}}
    plain = train(model_type=model_type, **evaluated)
    assert plain[1]
    capsys.readouterr()
    fused = train({**LAYERS, "fused_linear_cross_entropy": True}, model_type, **evaluated)
    same(plain, fused)
    table = capsys.readouterr().out.partition("liger-kernel")[2]
    glu = "geglu" if model_type == "gemma2" else "swiglu"
    for kernel in ("rope", "rms_norm", glu, "fused_linear_cross_entropy"):
        line = next(line for line in table.splitlines() if line.strip().startswith(f"{kernel} "))
        assert line.split()[1:4] == ["by", "name", "yes"], line
    assert len(plain[0]) == 2


@pytest.mark.parametrize("options", [LAYERS, {"cross_entropy": True}], ids=["layers", "cross_entropy"])
def test_kernels_beside_the_core_loss(train, options):
    same(train(), train(options))


def test_the_core_loss_asks_the_kernel_for_the_cross_entropy(train, monkeypatch):
    """Without it the numbers would be the same, so calls are counted."""
    from liger_kernel.ops import cross_entropy as liger_cross_entropy

    given, shapes = liger_cross_entropy.cross_entropy_forward, []

    def counted(logits, *args, **more):
        shapes.append(logits.shape)
        return given(logits, *args, **more)

    monkeypatch.setattr(liger_cross_entropy, "cross_entropy_forward", counted)
    losses, _, _ = train({"cross_entropy": True})
    assert len(shapes) >= len(losses) > 0


def test_kernels_beside_cce(train):
    same(train(), train(LAYERS, plugins=["cce"]))


def test_packed_rows(train):
    packed = {"data": {"packing": True, "max_length": 32}}
    same(train(**packed), train({**LAYERS, "fused_linear_cross_entropy": True}, **packed))


def test_gradient_checkpointing(train):
    again = {"trainer": {"gradient_checkpointing": True}}
    same(train(), train({**LAYERS, "fused_linear_cross_entropy": True}, **again))


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}], ids=["lora", "head saved"])
def test_an_adapter(train, more):
    adapter = {"type": "lora", "r": 4, "target_modules": ["q_proj", "down_proj"], **more}
    same(train(adapter=adapter), train({**LAYERS, "fused_linear_cross_entropy": True}, adapter=adapter))


def test_a_quantised_model(train):
    more = {
        "model": {"quantization": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}},
        "adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj", "down_proj"]},
    }
    same(train(**more), train({**LAYERS, "fused_linear_cross_entropy": True}, **more))


def test_liger_alone_takes_its_advice(train, capsys):
    same(train(), train({}))
    table = capsys.readouterr().out
    assert "rms_norm                    by liger's advice  yes      5 of 5 LlamaRMSNorm" in table
    assert "cross_entropy               no                 no" in table


def test_false_takes_something_from_the_advice(train, capsys):
    train({"rope": False, "fused_linear_cross_entropy": False})
    table = capsys.readouterr().out
    assert "swiglu                      by liger's advice  yes" in table
    assert "rope                        no                 no" in table
    assert "fused_linear_cross_entropy  no                 no" in table


def test_a_run_after_one_with_liger_is_plain(train):
    before = train()
    train({"cross_entropy": True, **LAYERS})
    after = train()
    assert before[0] == after[0]
    assert all(torch.equal(weight, after[2][name]) for name, weight in before[2].items())


def test_two_ranks_of_fsdp(run_config, folder_of, short_rows, tmp_path):
    losses = []
    for name, plugins in (("plain", []), ("kernels", [{"liger": {**LAYERS, "fused_linear_cross_entropy": True}}])):
        config = run_config(
            model={"path": str(folder_of("llama"))},
            data={"train": [{"path": str(short_rows)}], "max_length": 24},
            trainer={**TRAINER, "max_steps": 2, "gradient_accumulation_steps": 1, "fsdp": True},
            plugins=plugins,
            output_dir=str(tmp_path / name),
        )
        words = [sys.executable, "-m", "longline", "train", str(config), "--nproc", "2"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        log = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses.append([event["loss"] for event in map(json.loads, log) if "loss" in event])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_token_scaling_weighs_losses(train):
    plain = train()
    scaled = train({"fused_linear_cross_entropy": True, "use_token_scaling": True})
    assert 0 < scaled[0][0] < 0.5 * plain[0][0]


def test_policy_and_reference_of_dpo(train, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "a" * (1 + index % 3), "chosen": f"b{index}", "rejected": "c"} for index in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dpo = {"method": "dpo", "data": {"train": [{"path": str(path)}]}}
    dpo["trainer"] = {"max_steps": 2, "gradient_accumulation_steps": 1}
    plain, advice = train(**dpo), train({}, **dpo)  # without the loss, which is trl's
    assert plain[0] == pytest.approx(advice[0], rel=1e-4)
    assert plain[0][0] != plain[0][1]


# --- refused ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(run_config, folder_of, capsys, tmp_path):
    """Return a function that runs the command, expects it to end with 3 before training, and returns what it said."""

    def run(options, model_type="llama", **more):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        model = {"path": str(folder_of(model_type)), **more.pop("model", {})}
        config = run_config(plugins=[{"liger": options}], model=model, **more)
        assert run_cli(["train", str(config)]) == 3
        manifest = json.loads((tmp_path / "run" / "run.json").read_text())
        assert manifest["status"] == "failed"
        assert manifest["summary"]["steps"] == 0
        said = capsys.readouterr()
        return said.out + said.err

    return run


def test_a_kernel_that_the_type_does_not_have(refused):
    said = refused({"geglu": True, "layer_norm": True, "rms_norm": True})
    assert "has no layer_norm and no geglu for llama" in said
    assert "it has rope, cross_entropy, fused_linear_cross_entropy, rms_norm, swiglu" in said


def test_a_type_that_liger_does_not_know(refused):
    assert "has no kernels for models of type 'olmoe'" in refused({"rms_norm": True}, "olmoe")


def test_a_kernel_that_liger_only_warns_of(refused):
    said = refused({"rope": True, "rms_norm": True}, "deepseek_v3")
    assert "rope                        by name  no       rope=True is not supported for DeepSeek-V3" in said
    assert "not applied to deepseek_v3: rope: rope=True is not supported" in said
    assert "name those that are: plugins.liger: {rms_norm: true}" in said


def test_a_kernel_that_liger_takes_without_a_word(refused):
    said = refused({"cross_entropy": True}, "mistral")
    assert "liger replaced transformers.models.mistral.modeling_mistral.CrossEntropyLoss, not used by this model" in said


def test_a_kernel_that_is_wrong(refused):
    assert "refused for llama4_text, rope: the loss is wrong when rows" in refused({"rope": True}, "llama4_text")


def test_a_type_whose_classes_transformers_lacks(refused):
    said = refused({"rms_norm": True}, "qwen3_5_moe_text")
    assert "does not fit transformers" in said
    assert "LigerQwen3_5MoeCausalLMOutputWithPast" in said


def test_another_activation(refused):
    said = refused({"swiglu": True}, model={"overrides": {"hidden_act": "gelu"}})
    assert "LlamaMLP has another activation than the kernel computes" in said
    assert "LlamaMLP has another" in refused({}, model={"overrides": {"hidden_act": "gelu"}})


@pytest.mark.parametrize("more", [{"trainer": {"bf16": True}}, {"model": {"dtype": "bfloat16"}}], ids=["bf16", "dtype"])
def test_the_interpreter_in_bfloat16(run_config, capsys, tmp_path, more):
    config = run_config(plugins=[{"liger": {"rope": True}}], **more)
    for command in ("check", "train"):
        assert run_cli([command, str(config)]) == 3
        said = capsys.readouterr().err
        assert "liger: Triton's interpreter is right only in float32, and this run has" in said
        assert ("trainer.bf16" if "trainer" in more else "model.dtype: bfloat16") in said
    assert not (tmp_path / "run").exists()


def test_an_adapter_on_the_output_head(refused):
    adapter = {"type": "lora", "r": 4, "target_modules": ["q_proj", "lm_head"]}
    said = refused({"fused_linear_cross_entropy": True}, adapter=adapter)
    assert "fused_linear_cross_entropy cannot be applied: the output head is peft's Linear" in said
    assert "use cross_entropy: true" in said


def test_another_plugin_that_takes_a_kernel_off_again(train, folder_of, run_longline):
    from longline import Plugin, hookimpl

    class Undoing(Plugin):
        @hookimpl
        def provide_collator(self, run):
            del self.model.model.norm.forward

        @hookimpl
        def post_model_load(self, model):
            self.model = model

    with pytest.raises(PluginError, match="rms_norm was applied, and something replaced it again in LlamaRMSNorm"):
        run_longline(plugins=[{"liger": {"rms_norm": True}}, Undoing(None)], model={"path": str(folder_of("llama"))})


def test_the_interpreter_is_said(train, run_longline, folder_of):
    outcome = run_longline(plugins=[{"liger": {"rope": True}}], trainer={"max_steps": 1})
    assert "on_alert(alert=warning: liger)" in outcome.hooks("on_alert")
    assert outcome.hooks("on_table") == ["on_table(table=liger, 5 rows, step 0)"]


def test_the_manifest_says_which_kernels_there_were(run_longline):
    outcome = run_longline(plugins=[{"liger": {"rope": True, "rms_norm": True}}], trainer={"max_steps": 1})
    assert outcome.manifest["plan"]["liger"] == "rope, rms_norm"


def test_other_commands_use_no_kernels(run_config, tmp_path, capsys):
    """They give the same numbers without, also where there are none; a table or an alert would be in the way of answers."""
    assert run_cli(["train", str(run_config(plugins=[{"liger": {"rms_norm": True}}], trainer={"max_steps": 1}))]) == 0
    assert "rms_norm" in capsys.readouterr().out
    assert run_cli(["generate", str(tmp_path / "run"), "--prompt", "How many hooks?", "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr()
    assert "rms_norm" not in said.out + said.err
    assert "interpreter" not in said.out + said.err


def test_it_is_well_behaved(assert_well_behaved, short_rows):
    """On one rank: the interpreter is no place for two."""
    data = {"train": [{"path": str(short_rows)}], "max_length": 24}
    assert_well_behaved(LigerPlugin, {"rope": True}, ranks=1, data=data, trainer={"per_device_train_batch_size": 1})

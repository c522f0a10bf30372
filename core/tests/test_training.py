"""A run trains what the config says: compared with trl, with itself after an interruption, and with an independent count."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longline import Plugin, hookimpl
from longline.errors import ConfigError, ModelError, TrainingError
from longline.plugins import PluginConfig
from longline.testing import HookRecorder, chat, fail_at
from longline.trainers.trainer import _unscaled


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = list(folder.glob("*.safetensors"))
    assert found, f"no weights in {folder}"
    return {name: tensor for path in found for name, tensor in load_file(path).items()}


def same_bits(left: Path, right: Path) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- what a run leaves --------------------------------------------------------------------------------------------------------


def test_full_fine_tune_leaves_a_whole_run_folder(run_longline, tiny_model_dir):
    outcome = run_longline(trainer={"max_steps": 4})
    folder = outcome.output_dir
    assert outcome.result.status == "completed"
    assert [event["step"] for event in outcome.log if "loss" in event] == [1, 2, 3, 4]
    assert all({"learning_rate", "grad_norm", "epoch", "time"} <= event.keys() for event in outcome.log if "loss" in event)
    manifest = outcome.manifest
    assert (manifest["status"], manifest["exit_code"], manifest["summary"]["steps"]) == ("completed", 0, 4)
    assert manifest["versions"]["torch"] == torch.__version__
    assert not (folder / ".saving").exists()
    assert not list(folder.rglob("training_args.bin")), "a pickle may hold secrets, and nothing reads it"
    assert not same_bits(folder / "model", tiny_model_dir)
    assert "base_model:" in (folder / "model" / "README.md").read_text()
    assert json.loads((folder / "model" / "config.json").read_text())["use_cache"] is True


def test_the_resolved_config_repeats_the_run(run_longline):
    first = run_longline(adapter={"type": "lora", "r": 4}, trainer={"max_steps": 3})
    config = first.output_dir / "config.yaml"
    text = config.read_text().replace(str(first.output_dir), str(first.output_dir.parent / "again"))
    copy = first.output_dir.parent / "again.yaml"
    copy.write_text(text)
    second = run_longline(copy)
    assert second.output_dir != first.output_dir
    assert same_bits(first.output_dir / "model", second.output_dir / "model")


def test_a_folder_with_a_run_is_not_overwritten_unless_asked(run_longline, run_config):
    config = run_config(trainer={"max_steps": 1})
    run_longline(config)
    marker = config.parent / "run" / "notes.txt"
    marker.write_text("mine")
    with pytest.raises(ConfigError, match="already holds a run"):
        run_longline(config)
    assert run_longline(config, overwrite=True).result.status == "completed"
    assert marker.read_text() == "mine"


# --- parity with a peer -------------------------------------------------------------------------------------------------------


def test_losses_equal_trl_at_every_one_of_20_steps(run_longline, tiny_model_dir, tmp_path):
    """The same model, rows, masks and hyper-parameters through trl's SFTTrainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings = {
        "max_steps": 20,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
        "seed": 11,
        "logging_steps": 1,
    }
    seen = {}

    class Keep(Plugin):
        @hookimpl
        def post_data_load(self, data):
            seen["rows"] = [(row["input_ids"], row["labels"]) for row in data.train]

    ours = run_longline(trainer=settings, plugins=[Keep(PluginConfig())])

    # Only the rows' tokens are handed over: the mask is written here once more, from trl's own prompt-and-completion form.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    marker = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    rows = []
    for ids, labels in seen["rows"]:
        start = next(i for i in range(len(ids)) if ids[i : i + len(marker)] == marker) + len(marker)
        end = ids.index(tokenizer.eos_token_id, start) + 1
        mask = [int(start <= i < end) for i in range(len(ids))]
        assert [label != -100 for label in labels] == [bool(m) for m in mask]
        rows.append({"input_ids": ids, "completion_mask": mask})
    args = SFTConfig(
        output_dir=str(tmp_path / "trl"),
        **settings,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        packing=False,
        max_length=None,
        gradient_checkpointing=False,
        completion_only_loss=True,
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    theirs = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    theirs.train()
    left = [event["loss"] for event in ours.log if "loss" in event]
    right = [event["loss"] for event in theirs.state.log_history if "loss" in event]
    assert len(left) == len(right) == 20
    assert left == pytest.approx(right, rel=1e-4)
    assert left[-1] < left[0] - 0.2, "nothing was learnt, so the comparison says little"


# --- resume -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4, "lora_dropout": 0.2}], ids=["full", "lora"])
@pytest.mark.parametrize("stop_at", [1, 4, 5, 7])
def test_an_interrupted_and_resumed_run_ends_with_the_same_bits(run_longline, run_config, tmp_path, stop_at, adapter):
    """Steps 4 and 8 end an epoch of 8 rows in batches of 2; dropout draws random numbers at every step."""
    rows = tmp_path / "eight.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chat(8)))
    common = {
        "data": {"train": [{"path": str(rows), "format": "chat"}]},
        "model": {"overrides": {"attention_dropout": 0.1}},
        "trainer": {"max_steps": 9, "save_strategy": "no", "lr_scheduler_type": "cosine"},
        "adapter": adapter,
    }
    whole = run_longline(run_config(**common, output_dir=str(tmp_path / "whole")))
    config = run_config(**common, output_dir=str(tmp_path / "parts"))
    first = run_longline(config, plugins=[fail_at("on_step_end", stop_at, "SIGINT")])
    assert (first.result.status, first.result.exit_code) == ("interrupted", 130)
    assert (first.output_dir / f"checkpoint-{stop_at}").is_dir()
    assert not (first.output_dir / "model").exists()
    second = run_longline(config, resume="last")
    assert second.result.status == "completed"
    assert same_bits(whole.output_dir / "model", second.output_dir / "model")
    steps = [event["step"] for event in second.log if "loss" in event]
    assert steps == list(range(1, 10)), "each step is in the log once"
    tokens = [event["num_tokens"] for event in second.log if "loss" in event]
    assert tokens == [event["num_tokens"] for event in whole.log if "loss" in event]


def test_resume_goes_on_from_a_named_checkpoint_and_forgets_later_log_lines(run_longline, run_config):
    config = run_config(trainer={"max_steps": 6, "save_strategy": "steps", "save_steps": 2})
    first = run_longline(config)
    final = weights(first.output_dir / "model")
    again = run_longline(config, resume=str(first.output_dir / "checkpoint-2"))
    assert [event["step"] for event in again.log if "loss" in event] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(final[name], tensor) for name, tensor in weights(again.output_dir / "model").items())


def test_resume_without_a_checkpoint_is_an_error(run_longline, tmp_path):
    with pytest.raises(ConfigError, match="has no checkpoint"):
        run_longline(resume="last")
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        run_longline(resume=str(tmp_path))


# --- guards -------------------------------------------------------------------------------------------------------------------


class Poison(Plugin):
    """Makes the weights useless before a step, as a diverged run does."""

    def __init__(self, value: float) -> None:
        super().__init__(PluginConfig())
        self.value = value

    @hookimpl
    def pre_optimizer_step(self, trainer, step):
        if step == 2:
            for parameter in trainer.model.parameters():
                parameter.grad.fill_(self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_and_rows(run_longline, value):
    recorder = HookRecorder()
    with pytest.raises(TrainingError, match=r"at step 3, in .*chat\.jsonl:\d+, .*chat\.jsonl:\d+") as caught:
        run_longline(plugins=[Poison(value)], recorder=recorder, trainer={"max_steps": 6, "max_grad_norm": 0})
    assert caught.value.exit_code == 1
    assert recorder.calls[-2].startswith("on_error(")
    assert recorder.calls[-1].startswith("on_run_end(status=failed")


def test_a_loss_that_is_not_finite_may_be_accepted(run_longline):
    outcome = run_longline(plugins=[Poison(math.nan)], nonfinite_loss="continue", trainer={"max_steps": 4, "max_grad_norm": 0})
    assert outcome.result.status == "completed"
    assert next(event["loss"] for event in outcome.log if event.get("step") == 3) == "NaN"


class Halved(Plugin):
    """Halves gradients before they are clipped, and keeps their norms as they came, as they went, and when the step is made."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.norms: dict[str, list[float]] = {"came": [], "went": [], "used": []}

    def note(self, name, trainer):
        gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters()]
        self.norms[name].append(torch.cat(gradients).norm().item())

    @hookimpl
    def pre_gradient_clip(self, trainer, step):
        self.note("came", trainer)
        for parameter in trainer.model.parameters():
            parameter.grad.mul_(0.5)
        self.note("went", trainer)
        assert step == len(self.norms["came"])

    @hookimpl
    def pre_optimizer_step(self, trainer):
        self.note("used", trainer)


@pytest.mark.parametrize("limit", [0.1, 0])
def test_gradients_can_be_changed_before_they_are_clipped(run_longline, tmp_path, limit):
    """Once a step, when all its batches are in; what the hook leaves is what is clipped, and told as grad_norm."""
    trainer = {"max_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "max_grad_norm": limit}
    plain = run_longline(trainer=trainer, output_dir=str(tmp_path / "plain"))
    halved = Halved()
    outcome = run_longline(plugins=[halved], trainer=trainer, output_dir=str(tmp_path / "halved"))
    told, plainly = ([event["grad_norm"] for event in run.log if "grad_norm" in event] for run in (outcome, plain))
    assert halved.norms["came"][0] == pytest.approx(plainly[0], rel=1e-4)
    assert halved.norms["went"] == pytest.approx([0.5 * norm for norm in halved.norms["came"]], rel=1e-4)
    assert told == pytest.approx(halved.norms["went"], rel=1e-4)
    assert halved.norms["used"] == pytest.approx([limit] * 3 if limit else halved.norms["went"], rel=1e-3)


def test_the_scale_of_float16_is_away_only_while_the_hook_has_the_gradients():
    """The scaler takes it away itself when gradients are clipped, and refuses to do so twice."""
    model = torch.nn.Linear(2, 1, bias=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaler.scale(model(torch.tensor([[3.0, 5.0]])).sum()).backward()
    with _unscaled(scaler, model):
        assert model.weight.grad.tolist() == [[3.0, 5.0]]
        model.weight.grad.add_(1)
    scaler.unscale_(torch.optim.SGD(model.parameters()))
    assert model.weight.grad.tolist() == [[4.0, 6.0]]


def test_early_stopping_and_the_best_model(run_longline):
    """At this learning rate evaluation gets worse, so patience runs out and the best checkpoint is taken back."""
    outcome = run_longline(
        data={"eval_fraction": 0.25},
        early_stopping={"patience": 2},
        trainer={
            "max_steps": 40,
            "learning_rate": 0.5,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "load_best_model_at_end": True,
            "save_total_limit": 2,
        },
    )
    losses = {event["step"]: event["eval_loss"] for event in outcome.log if "eval_loss" in event}
    best = min(losses, key=losses.__getitem__)
    assert max(losses) == best + 2 < 40
    kept = sorted(path.name for path in outcome.output_dir.glob("checkpoint-*"))
    assert kept == sorted([f"checkpoint-{best}", f"checkpoint-{best + 2}"])
    assert same_bits(outcome.output_dir / "model", outcome.output_dir / f"checkpoint-{best}")


def test_evaluation_data_is_evaluated_without_being_told_when(run_longline):
    outcome = run_longline(data={"eval_fraction": 0.25}, trainer={"max_steps": -1, "num_train_epochs": 2})
    assert len([event for event in outcome.log if "eval_loss" in event]) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_step_has_the_loss_of_its_samples_alone(run_longline, tiny_model_dir, attention):
    """All packs in one step, before any weight has changed, against one forward pass for each sample."""
    from transformers import AutoModelForCausalLM

    rows = {}

    class Keep(Plugin):
        @hookimpl
        def post_data_load(self, data):
            rows["packs"] = len(data.train)
            for row in data.train:
                starts = [sum(row["seq_lengths"][:k]) for k in range(len(row["seq_lengths"]))]
                for start, length in zip(starts, row["seq_lengths"], strict=True):
                    ids, labels = (row[name][start : start + length] for name in ("input_ids", "labels"))
                    rows.setdefault("samples", []).append((ids, labels))

    outcome = run_longline(
        plugins=[Keep(PluginConfig())],
        data={"packing": True, "max_length": 128},
        model={"attn_implementation": attention},
        trainer={"max_steps": 1, "per_device_train_batch_size": 64},
    )
    assert rows["packs"] < len(rows["samples"]) == 32
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    loss, count = 0.0, 0
    for ids, labels in rows["samples"]:
        logits = model(torch.tensor([ids])).logits[0, :-1].detach().double()
        targets = torch.tensor(labels[1:])
        loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=-100).item()
        count += int((targets != -100).sum())
    assert outcome.log[0]["loss"] == pytest.approx(loss / count, abs=1e-5)
    assert outcome.log[0]["num_tokens"] == sum(len(ids) for ids, _ in rows["samples"]), "padding is not counted"


# --- model and adapter --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ({"type": "lora"}, {"use_dora": False, "use_rslora": False, "r": 16}),
        ({"type": "dora", "r": 2}, {"use_dora": True, "r": 2}),
        ({"type": "rslora", "lora_alpha": 7}, {"use_rslora": True, "lora_alpha": 7}),
        (
            {"type": "lora", "target_modules": ["q_proj"], "bias": "lora_only"},
            {"target_modules": ["q_proj"], "bias": "lora_only"},
        ),
    ],
)
def test_adapters_reach_peft(run_longline, adapter, expected):
    outcome = run_longline(adapter=adapter, trainer={"max_steps": 2, "learning_rate": 0.01})
    saved = json.loads((outcome.output_dir / "model" / "adapter_config.json").read_text())
    assert {key: saved[key] for key in expected} == expected
    moved = [tensor for name, tensor in weights(outcome.output_dir / "model").items() if "lora_B" in name]
    assert moved
    assert all(tensor.abs().sum() > 0 for tensor in moved), "lora_B starts at zero"


def test_an_adapter_that_fits_nothing_names_what_would_fit(run_longline):
    with pytest.raises(ConfigError, match="down_proj, gate_proj"):
        run_longline(adapter={"type": "lora", "target_modules": ["nothing_like_it"]})


def test_qlora_trains_an_nf4_base(run_longline):
    pytest.importorskip("bitsandbytes")
    outcome = run_longline(
        adapter={"type": "lora", "r": 4},
        model={"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "dtype": "float32"},
        trainer={"max_steps": 6, "learning_rate": 0.02},
    )
    losses = [event["loss"] for event in outcome.log if "loss" in event]
    assert losses[-1] < losses[0]


def test_an_evaluation_changes_nothing_of_qlora(run_longline, tmp_path):
    """bitsandbytes repacked the layers for it on a CPU with bfloat16, and no gradient came through them afterwards."""
    pytest.importorskip("bitsandbytes")

    def trained(**evaluation):
        outcome = run_longline(
            adapter={"type": "lora", "r": 4, "target_modules": ["q_proj", "down_proj"]},
            model={"quantization": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}, "dtype": "float32"},
            data={"eval_fraction": 0.2},
            trainer={"max_steps": 3, "learning_rate": 0.02, **evaluation},
            output_dir=str(tmp_path / f"run{len(evaluation)}"),
        )
        return load_file(outcome.output_dir / "model" / "adapter_model.safetensors")

    plain, evaluated = trained(), trained(eval_strategy="steps", eval_steps=1)
    assert all(torch.equal(weight, evaluated[name]) for name, weight in plain.items())
    assert all(weight.norm() > 0 for weight in plain.values())


def test_overrides_reach_the_models_config(run_longline):
    rope = {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}
    outcome = run_longline(model={"overrides": rope}, trainer={"max_steps": 1})
    saved = json.loads((outcome.output_dir / "model" / "config.json").read_text())["rope_parameters"]
    assert (saved["rope_type"], saved["factor"], saved["rope_theta"]) == ("linear", 4.0, 10000.0)


def test_an_override_that_does_not_exist_is_an_error_with_the_nearest_name(run_longline):
    with pytest.raises(ModelError, match="attention_dropout"):
        run_longline(model={"overrides": {"atention_dropout": 0.1}})


def test_an_attention_without_its_library_is_an_error_that_names_it(run_longline):
    with pytest.raises(ModelError, match="needs flash-attn-3, which is not installed") as caught:
        run_longline(model={"attn_implementation": "flash_attention_3"}, trainer={"use_cpu": None})
    assert "pip install flash-attn-3" in str(caught.value)


def test_new_tokens_are_trained_and_saved_with_an_adapter(run_longline, tmp_path):
    rows = tmp_path / "new.jsonl"
    row = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "<|done|> yes"}]}
    rows.write_text((json.dumps(row) + "\n") * 4)
    outcome = run_longline(
        data={"train": [{"path": str(rows), "format": "chat"}]},
        adapter={"type": "lora", "r": 2},
        model={"tokenizer": {"add_tokens": ["<|done|>"]}},
        trainer={"max_steps": 2, "learning_rate": 0.05},
    )
    deltas = [tensor for name, tensor in weights(outcome.output_dir / "model").items() if "token" in name]
    assert deltas
    assert outcome.result.status == "completed"


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing_but_memory(run_longline, tmp_path, adapter):
    plain = run_longline(adapter=adapter, output_dir=str(tmp_path / "a"), trainer={"max_steps": 3})
    spared = run_longline(
        adapter=adapter, output_dir=str(tmp_path / "b"), trainer={"max_steps": 3, "gradient_checkpointing": True}
    )
    left = [event["loss"] for event in plain.log if "loss" in event]
    assert left == pytest.approx([event["loss"] for event in spared.log if "loss" in event], rel=1e-6)


def test_a_value_that_the_arguments_class_refuses_stops_before_the_model(run_longline):
    with pytest.raises(ConfigError, match="nonsense"):
        run_longline(model={"path": "nobody/nothing"}, trainer={"debug": "nonsense"})

"""Every kind of trainer: those of trl in a run, and plain ones without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from longline_profiling import profile, profiled, recording
from longline_profiling.config import ProfilingConfig
from longline_profiling.plugin import ProfilingPlugin
from longline_profiling.spans import current

TAKEN = "profiling/Time taken: "
LORA = {"type": "lora", "r": 4}


def pairs(count=8):
    return [
        {
            "prompt": [{"role": "user", "content": f"How many hooks for {index} fish?"}],
            "chosen": [{"role": "assistant", "content": f"Take {index} hooks."}],
            "rejected": [{"role": "assistant", "content": "No idea."}],
        }
        for index in range(count)
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def figures(outcome):
    session = json.loads((outcome.output_dir / "profile" / "timings.json").read_text())["sessions"][-1]
    return session, {(row["name"], row["parent"]): row for row in session["spans"]}


def run(run_longline, method, rows, tmp_path, **overrides):
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4, **overrides.pop("trainer", {})}
    plugin = ProfilingPlugin(ProfilingConfig(peak_tflops=1))
    data = {"train": [{"path": write(tmp_path / "rows.jsonl", rows)}]}
    return run_longline(plugins=[plugin], method=method, data=data, trainer=trainer, **overrides)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_dpo(adapter, run_longline, tmp_path):
    outcome = run(run_longline, "dpo", pairs(), tmp_path, **({"adapter": adapter} if adapter else {}))
    session, spans = figures(outcome)
    step = ("DPOTrainer.training_step", None)
    assert spans[step]["calls"] == 2
    assert spans["DPOTrainer.compute_loss", step[0]]["calls"] == 2
    assert spans["Accelerator.backward", step[0]]["calls"] == 2
    assert spans["AdamW.step", None]["calls"] == 2
    assert spans["DPOTrainer.data_wait", None]["calls"] == 2
    assert all(TAKEN + step[0] in event for event in outcome.log if "loss" in event)
    found = session["throughput"]
    tokens = [event for event in outcome.log if "num_tokens" in event][-1]["num_tokens"]
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(tokens)
    model = AutoModelForCausalLM.from_pretrained(outcome.manifest["model"])
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name)
    per_token = found["flops_per_token_without_attention"]
    if adapter is None:
        assert per_token == (6 + 2) * weights, "the reference runs forward too"
    else:
        assert (4 + 2) * weights < per_token < (6 + 2) * weights


def labelled():
    return [{"prompt": r["prompt"], "completion": r["chosen"], "label": bool(i % 2)} for i, r in enumerate(pairs())]


@pytest.mark.parametrize(
    ("method", "rows", "told"),
    [("orpo", pairs, True), ("simpo", pairs, True), ("kto", labelled, False), ("reward", pairs, True)],
    ids=["orpo", "simpo", "kto", "reward"],
)
def test_other_preference_methods(method, rows, told, run_longline, tmp_path):
    rows = rows()
    outcome = run(run_longline, method, rows, tmp_path)
    session, spans = figures(outcome)
    (step,) = [name for name, parent in spans if name.endswith(".training_step")]
    assert spans[step, None]["calls"] == 2
    assert spans[step.replace("training_step", "compute_loss"), step]["calls"] == 2
    if told:
        assert session["throughput"]["mfu_percent"] > 0
    else:
        assert "kto" in session["throughput"]["no_mfu"]


def test_grpo_times_generation_and_rewards(run_longline, tmp_path, monkeypatch):
    (tmp_path / "scoring_of_profiling.py").write_text(
        "import time\nfrom longline_profiling import profiled\n\n"
        "@profiled\ndef length(completions, **columns):\n    time.sleep(0.01)\n    return [1.0] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"prompt": row["prompt"]} for row in pairs()]
    trainer = {"num_generations": 2, "max_completion_length": 6}
    rewards = [{"function": "scoring_of_profiling:length"}]
    outcome = run(run_longline, "grpo", rows, tmp_path, trainer=trainer, rewards=rewards)
    session, spans = figures(outcome)
    step = "GRPOTrainer.training_step"
    generation, scores = spans["GRPOTrainer._generate", step], spans["GRPOTrainer._calculate_rewards", step]
    assert generation["calls"] == scores["calls"] == 2
    assert scores["seconds"] >= 0.02
    assert spans["length", "GRPOTrainer._calculate_rewards"]["calls"] == 2, "a reward function's decorator found the run"
    assert generation["seconds"] + scores["seconds"] < spans[step, None]["seconds"]
    assert "grpo" in session["throughput"]["no_mfu"]
    assert session["throughput"]["tokens_per_second"] > 0


# --- without a run --------------------------------------------------------------------------------------------------------------


class Decorated(Trainer):
    @profiled
    def compute_loss(self, *args, **kwargs):
        with profile("my part"):
            return super().compute_loss(*args, **kwargs)


@pytest.fixture
def plain(tiny_model_dir, tmp_path):
    def make(cls=Trainer, **arguments):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        ids = [tokenizer(f"How many hooks for number {index}?")["input_ids"][:8] for index in range(16)]
        rows = Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])
        args = TrainingArguments(
            output_dir=str(tmp_path / "plain"),
            max_steps=4,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_steps=2,
            save_strategy="no",
            **arguments,
        )
        return cls(model=model, args=args, train_dataset=rows, eval_dataset=rows.select(range(2)))

    return make


def test_a_plain_trainer_is_recorded_and_given_back(plain):
    trainer = plain(Decorated)
    before = set(vars(trainer))
    with recording(trainer, steps={"start": 2, "count": 1}) as timings:
        trainer.train()
        trainer.evaluate()
    rows = {(row.name, row.parent): row for row in timings.rows()}
    assert rows["Decorated.training_step", None].calls == 4
    assert rows["Decorated.compute_loss", "Decorated.training_step"].calls == 4
    assert not any(name == parent for name, parent in rows), "the author's own decorator timed it once more"
    assert rows["my part", "Decorated.compute_loss"].calls == 4
    assert rows["my part", "Decorated.compute_loss (evaluate)"].calls == 1
    assert rows["Decorated.evaluate", None].share is None, "it was after training"
    assert rows["Decorated.training_step", None].share > 0
    assert timings.rest_seconds < timings.train_seconds
    assert "the rest of training" in timings.summary()
    logged = [event for event in trainer.state.log_history if "loss" in event]
    assert all(event[TAKEN + "Decorated.training_step"] > 0 for event in logged)
    assert [path.name for path in (Path(trainer.args.output_dir) / "profile").iterdir()] == ["trace-rank0-step-2.json.gz"]
    assert not {"training_step", "log", "evaluate", "get_batch_samples"} & (set(vars(trainer)) - before)
    assert current.get() is None


def test_training_twice_in_one_recording_counts_each_step_once(plain):
    trainer = plain()
    with recording(trainer) as timings:
        trainer.train()
        trainer.train()
    rows = {row.name: row for row in timings.rows()}
    assert rows["Trainer.training_step"].calls == 8
    assert rows["AdamW.step"].calls == 8


def test_a_recording_that_is_off_leaves_the_trainer_alone(plain):
    trainer = plain()
    with recording(trainer, enabled=False) as timings:
        assert "training_step" not in vars(trainer)
        trainer.train()
    assert timings.rows() == []


def test_the_trainer_is_given_back_also_after_an_error(plain):
    class Fails(Trainer):
        def training_step(self, *args, **kwargs):
            raise OSError("broken")

    trainer = plain(Fails)
    with pytest.raises(OSError, match="broken"), recording(trainer) as timings:
        trainer.train()
    assert "training_step" not in vars(trainer)
    (row,) = [row for row in timings.rows() if row.name == "Fails.training_step"]
    assert (row.calls, row.failed) == (1, 1)


def test_what_another_put_over_ours_stays(plain):
    trainer = plain()
    with recording(trainer):
        ours = trainer.training_step
        trainer.training_step = lambda *args, **kwargs: ours(*args, **kwargs)
        theirs = trainer.training_step
    assert vars(trainer)["training_step"] is theirs
    trainer.train()
    assert trainer.state.global_step == 4


def test_waiting_for_the_device_is_possible_on_a_cpu_too(plain):
    trainer = plain()
    with recording(trainer, synchronize=True) as timings:
        trainer.train()
    assert timings.recorder.wait is None, "a CPU does its work at once"
    assert {row.name: row.calls for row in timings.rows()}["Trainer.training_step"] == 4


def test_a_device_is_waited_for_at_both_ends_of_a_span():
    waits = []
    with recording() as timings:
        timings.recorder.wait = lambda: waits.append(torch.zeros(1))
        with profile("block"):
            assert len(waits) == 1
        assert len(waits) == 2
        with pytest.raises(ValueError, match="x"), profile("fails"):
            raise ValueError("x")
        assert len(waits) == 3

"""A resumed run is the same run: it ends where, and as, it would have ended without the interruption."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from longline import Plugin, hookimpl
from longline.plugins import PluginConfig
from longline.testing import chat

STOPPING = {
    "model": {"overrides": {"attention_dropout": 0.1}},
    "trainer": {
        "max_steps": 36,
        "learning_rate": 0.05,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "lr_scheduler_type": "cosine",
    },
    "early_stopping": {"patience": 2, "threshold": 0.3},
}


class At(Plugin):
    """Sends this process a signal at a step, or at the first batch of the evaluation that follows it."""

    def __init__(self, step: int, *, evaluating: bool = False) -> None:
        super().__init__(PluginConfig())
        self.step, self.evaluating = step, evaluating

    @hookimpl
    def on_step_end(self, step):
        if step == self.step and not self.evaluating:
            signal.raise_signal(signal.SIGINT)

    @hookimpl
    def on_log(self, logs, step):
        if step == self.step and self.evaluating and "loss" in logs:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def config_of(run_config, tmp_path):
    """Writes a config of 12 rows to train on and 4 others, in a folder of its own."""
    for name, rows in (("train", chat(12)), ("eval", chat(40)[30:34])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {name: [{"path": str(tmp_path / f"{name}.jsonl"), "format": "chat"}] for name in ("train", "eval")}

    def write(name, **more):
        return run_config(**{"data": data, **more}, output_dir=str(tmp_path / name))

    return write


def bits(outcome):
    return load_file(outcome.output_dir / "model" / "model.safetensors")


def same(left, right):
    a, b = bits(left), bits(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def told(outcome, *names):
    """What was logged, without times and speeds."""
    return [{name: event[name] for name in ("step", *names) if name in event} for event in outcome.log if {*names} & {*event}]


@pytest.fixture(scope="module")
def ended():
    """The uninterrupted run of each kind, made once."""
    return {}


# --- early stopping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "before", "evaluating"),
    [("steps", 1, False), ("steps", 2, False), ("steps", 2, True), ("epoch", 6, False)],
    ids=["before an evaluation", "at an evaluation", "in an evaluation", "at the end of an epoch"],
)
def test_early_stopping_goes_on_where_it_was(run_longline, config_of, strategy, before, evaluating):
    """An interruption `before` steps before the stop."""
    how = {"eval_strategy": strategy, "save_strategy": strategy}
    given = {**STOPPING, "trainer": {**STOPPING["trainer"], **how}}
    whole = run_longline(config_of("whole", **given))
    end = whole.manifest["summary"]["steps"]
    assert before + 2 < end < 36, "it did not stop early, so the comparison says little"
    config = config_of("parts", **given)
    stopped = run_longline(config, plugins=[At(end - before, evaluating=evaluating)])
    assert stopped.result.status == "interrupted"
    resumed = run_longline(config, resume="last")
    assert resumed.manifest["summary"]["steps"] == end
    assert told(resumed, "loss", "eval_loss") == told(whole, "loss", "eval_loss")
    assert same(resumed, whole)


def test_a_run_that_early_stopping_ended_is_not_trained_on(run_longline, config_of):
    config = config_of("run", **STOPPING)
    first = run_longline(config)
    log, model, summary = first.log, bits(first), first.manifest["summary"]
    again = run_longline(config, resume="last")
    assert (again.result.status, again.result.exit_code, again.manifest["summary"]["steps"]) == (
        "completed",
        0,
        summary["steps"],
    )
    text = f"early stopping ended the run at step {summary['steps']}, 2 evaluations without improvement"
    assert [alert["text"] for alert in again.manifest["alerts"] if alert["title"] == "nothing is left to train"] == [text]
    assert again.log == log
    assert all(torch.equal(model[name], tensor) for name, tensor in bits(again).items())
    assert again.manifest["summary"]["tokens"] == summary["tokens"]


def test_more_patience_lets_a_stopped_run_go_on(run_longline, config_of):
    stopped = run_longline(config_of("run", **STOPPING)).manifest["summary"]["steps"]
    patient = config_of("run", **{**STOPPING, "early_stopping": {"patience": 3, "threshold": 0.3}})
    resumed = run_longline(patient, resume="last")
    assert resumed.manifest["summary"]["steps"] == stopped + 2


@pytest.mark.parametrize("steps", [5, 6], ids=["within an epoch", "at its end"])
def test_a_run_that_is_done_makes_no_further_step(run_longline, config_of, steps):
    config = config_of("run", trainer={"max_steps": steps, "save_strategy": "steps", "save_steps": 2})
    first = run_longline(config)
    model, summary = bits(first), first.manifest["summary"]
    again = run_longline(config, resume="last")
    assert (again.result.exit_code, again.manifest["summary"]["steps"]) == (0, steps)
    assert [alert["text"] for alert in again.manifest["alerts"]][-1] == f"all {steps} steps are done"
    assert all(torch.equal(model[name], tensor) for name, tensor in bits(again).items())
    assert again.manifest["summary"]["metrics"]["loss"] == summary["metrics"]["loss"]


# --- callbacks ----------------------------------------------------------------------------------------------------------------


class Counter(TrainerCallback, ExportableState):
    """Counts steps and remembers each; made with something that nobody could make again from a checkpoint."""

    def __init__(self, limit, run):
        self.limit, self.run, self.steps = limit, run, []

    def state(self):
        return {"args": {"limit": self.limit}, "attributes": {"steps": self.steps}}

    def on_step_end(self, args, state, control, **kwargs):
        self.steps = [*self.steps, state.global_step]


class WithCallbacks(Plugin):
    """Adds callbacks of one class."""

    def __init__(self, *limits: int) -> None:
        super().__init__(PluginConfig())
        self.limits = limits

    @hookimpl
    def post_trainer_create(self, run, trainer):
        self.made = [Counter(limit, run) for limit in self.limits]
        for callback in self.made:
            trainer.add_callback(callback)


def test_callbacks_have_what_they_had(run_longline, config_of):
    config = config_of("run", trainer={"max_steps": 6, "save_strategy": "steps", "save_steps": 1})
    run_longline(config, plugins=[WithCallbacks(10, 20), At(4)])
    plugin = WithCallbacks(30, 40)
    run_longline(config, plugins=[plugin], resume="last")
    assert [(made.limit, made.steps) for made in plugin.made] == [(30, [1, 2, 3, 4, 5, 6]), (40, [1, 2, 3, 4, 5, 6])]


def test_steps_between_saves_are_those_of_the_config(run_longline, config_of):
    given = {"max_steps": 8, "save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    run_longline(config_of("run", trainer={**given, "save_steps": 2}), plugins=[At(3)])
    again = run_longline(config_of("run", trainer={**given, "save_steps": 3, "eval_steps": 4}), resume="last")
    assert sorted(path.name for path in again.output_dir.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 3, 6, 8)]
    assert [event["step"] for event in again.log if "eval_loss" in event] == [0, 2, 4, 8]


def test_the_best_checkpoint_is_found_in_a_folder_that_was_moved(run_longline, config_of, tmp_path):
    given = {**STOPPING, "trainer": {**STOPPING["trainer"], "max_steps": 8}}
    whole = run_longline(config_of("whole", **given))
    run_longline(config_of("parts", **given), plugins=[At(7)])
    (tmp_path / "parts").rename(tmp_path / "moved")
    moved = run_longline(config_of("moved", **given), resume="last")
    assert same(moved, whole)

"""A resumed run is the same run: it ends where, and as, it would have ended without the interruption."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.trainer_callback import ExportableState

from longline import Plugin, hookimpl
from longline.config.loader import load_config
from longline.errors import ConfigError
from longline.plugins import LoadedPlugin, PluginConfig
from longline.run import train
from longline.testing import chat, tiny_tokenizer, write_tiny_model, zoo

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


# --- between two steps --------------------------------------------------------------------------------------------------------


def test_what_was_not_logged_yet_is_logged_as_if_nothing_had_been(run_longline, config_of):
    given = {"max_steps": 10, "logging_steps": 4, "logging_first_step": False}
    whole = run_longline(config_of("whole", trainer=given))
    config = config_of("parts", trainer=given)
    run_longline(config, plugins=[At(6)])
    resumed = run_longline(config, resume="last")
    names = ("loss", "num_tokens", "grad_norm")
    assert [event["step"] for event in told(whole, *names)] == [4, 8]
    assert told(resumed, *names) == told(whole, *names)
    losses = [event["loss"] for event in run_longline(config_of("each", trainer={"max_steps": 10})).log if "loss" in event]
    assert resumed.log[-1]["train_loss"] == pytest.approx(sum(losses[6:]) / 4)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_answers_that_were_drawn_are_learnt_from(run_longline, config_of, tmp_path, monkeypatch, method):
    """Answers to four batches are drawn at once and learnt from twice; the run is stopped when three of eight are used."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"fish {n}", "nr": n}) + "\n" for n in range(16)))
    (tmp_path / "rewards_of_answers.py").write_text("def size(completions, **columns): return list(map(len, completions))\n")
    monkeypatch.syspath_prepend(tmp_path)
    trainer = {"max_steps": 10, "num_generations": 2, "max_completion_length": 6, "steps_per_generation": 4}
    given = {
        "method": method,
        "data": {"train": [{"path": str(tmp_path / "prompts.jsonl")}], "eval": []},
        "trainer": {**trainer, "num_iterations": 2, "logging_steps": 2, "temperature": 1.5},
        "rewards": "rewards_of_answers:size",
    }
    whole = run_longline(config_of("whole", **given))
    config = config_of("parts", **given)
    run_longline(config, plugins=[At(3)])
    resumed = run_longline(config, resume="last")
    names = ("loss", "reward", "num_tokens")
    assert told(resumed, *names) == told(whole, *names)
    assert same(resumed, whole)


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


class Stopping(TrainerCallback):
    """Ends training after a step, of its own accord."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == 3


class Ends(Plugin):
    """Adds it."""

    @hookimpl
    def post_trainer_create(self, trainer):
        trainer.add_callback(Stopping())


def test_what_another_callback_ended_is_not_trained_on(run_longline, config_of):
    config = config_of("run", trainer={"max_steps": 6, "save_strategy": "steps", "save_steps": 1})
    ended = run_longline(config, plugins=[Ends(PluginConfig())])
    assert ended.manifest["summary"]["steps"] == 3
    again = run_longline(config, plugins=[Ends(PluginConfig())], resume="last")
    assert again.manifest["summary"]["steps"] == 3
    assert again.manifest["alerts"][-1]["text"] == "a callback ended the run at step 3"


# --- what is other than before ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_dir):
    """A folder with a model, rows, and runs of 6 steps that were stopped after 3: with all weights, and with LoRA."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_model_dir, folder / "model")
    for name, rows in (("train", chat(12)), ("eval", chat(40)[30:34])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {name: [{"path": str(folder / f"{name}.jsonl")}] for name in ("train", "eval")},
        "trainer": {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 3,
            "eval_strategy": "no",
            "use_cpu": True,
        },
    }
    base["data"] |= {"max_length": 128, "cache_dir": str(folder / "cache")}
    for name, more in (("full", {}), ("lora", {"adapter": {"r": 4}})):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(base | more | {"output_dir": str(folder / name)}))
        train(load_config(path), plugins=[LoadedPlugin.of(At(3), "at")])
    return folder


@pytest.fixture
def go_on(made, tmp_path):
    """Goes on with a copy of one of these runs; returns its folder and what was told."""

    def run(name, *overrides, **how):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(made / name, folder)
        loaded = load_config(made / f"{name}.yaml", [f"output_dir={folder}", *overrides])
        train(loaded, **{"resume": "last", **how})
        alerts = json.loads((folder / "run.json").read_text())["alerts"]
        return folder, {alert["title"]: alert["text"] for alert in alerts}

    run.folder = tmp_path
    return run


def losses(folder):
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if "loss" in event], [e["learning_rate"] for e in events if "loss" in e]


def refused(go_on, name, *overrides, **how):
    """The text of a refusal, which leaves the run folder as it was."""

    def state(folder):
        files = [folder / "run.json", folder / "config.yaml", folder / "log.jsonl"]
        return [path.read_bytes() for path in files]

    before = state(go_on.folder / name) if (go_on.folder / name).exists() else None
    with pytest.raises(ConfigError) as caught:
        go_on(name, *overrides, **how)
    made = json.loads((go_on.folder / name / "run.json").read_text())
    assert before is None or state(go_on.folder / name) == before
    assert (made["status"], made["exit_code"]) == ("interrupted", 130)
    return str(caught.value)


def test_nothing_is_told_where_nothing_differs(go_on):
    assert {*go_on("full")[1]} == {"resumed"}  # that the plugin of the first part is gone


def test_a_checkpoint_of_another_run_goes_on_in_a_folder_of_its_own(go_on, made, tmp_path):
    """Not in that of a run with other losses; a copy of one of its own, and the one that it began from, are none."""
    folder = go_on.folder / "full"
    other = ["output_dir=" + str(tmp_path / "other"), "trainer.max_grad_norm=0.1"]
    train(load_config(made / "full.yaml", other), plugins=[LoadedPlugin.of(At(3), "at")])
    text = refused(go_on, "full", resume=str(tmp_path / "other" / "checkpoint-3"))
    assert f"{tmp_path / 'other' / 'checkpoint-3'} is of another run than the one in {folder}" in text
    assert "output_dir" in text
    shutil.copytree(folder / "checkpoint-3", tmp_path / "kept")
    go_on("full", resume=str(tmp_path / "kept"))
    assert len(losses(folder)[0]) == 6
    for _ in range(2):
        loaded = load_config(made / "full.yaml", [f"output_dir={tmp_path / 'fork'}"])
        train(loaded, resume=str(tmp_path / "other" / "checkpoint-3"))
    assert len(losses(tmp_path / "fork")[0]) == 3


def test_what_the_checkpoint_rules_is_told_and_saved(go_on):
    folder, told = go_on("full", "trainer.learning_rate=5e-5", "trainer.save_steps=2")
    assert told["the checkpoint rules"].startswith("trainer.learning_rate stays 0.001, 5e-05 has no effect")
    assert told["takes effect"] == "trainer.save_steps was 3 and is 2"
    saved = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]
    assert (saved["learning_rate"], saved["save_steps"]) == (1e-3, 2)
    assert losses(folder)[1] == pytest.approx([1e-3 * (6 - n) / 6 for n in range(6)])


@pytest.mark.parametrize(
    ("name", "override", "text"),
    [
        ("full", "trainer.per_device_train_batch_size=4", "a step had 2 rows and now has 4"),
        ("full", "trainer.optim=sgd", "the state of the other optimizer"),
        ("full", "data.max_length=48", "data.max_length: was 128 and is 48"),
        ("full", "data.train.0.limit=11", "the rows are not those that the checkpoint was trained on"),
        ("full", "data.train_on=all", "data.train_on: was not set and is all"),
        ("lora", "adapter.lora_alpha=32", "adapter.lora_alpha: was 8 and is 32"),
    ],
)
def test_what_would_make_it_another_run_is_refused(go_on, name, override, text):
    assert text in refused(go_on, name, override)


def test_longer_than_any_row_is_the_same(go_on):
    assert go_on("full", "data.max_length=200")[1]["the rows are the same"] == "data.max_length was 128 and is 200"


def test_a_batch_divided_otherwise_trains_on_the_same_rows(go_on):
    folder, _ = go_on("full", "trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=2")
    other = go_on.folder / "kept"
    folder.rename(other)
    assert losses(other)[0] == pytest.approx(losses(go_on("full")[0])[0], rel=1e-4)


def test_rows_are_looked_at_and_not_their_files(go_on, made, tmp_path):
    shutil.copy(made / "train.jsonl", tmp_path / "moved.jsonl")
    assert "the rows are the same" in go_on("full", f"data.train.0.path={tmp_path / 'moved.jsonl'}")[1]
    rows = (made / "train.jsonl").read_text()
    (made / "train.jsonl").write_text(rows.replace("cod", "ray"))
    shutil.rmtree(go_on.folder / "full")
    try:
        assert "the files, what makes tokens of them, or a plugin" in refused(go_on, "full")
    finally:
        (made / "train.jsonl").write_text(rows)


def test_other_rows_to_evaluate_on_are_told(go_on, made):
    told = go_on("full", f"data.eval.0.path={made / 'train.jsonl'}")[1]
    assert "measured on those of the checkpoint" in told["other rows are evaluated on"]


@pytest.mark.parametrize("name", ["full", "lora"])
def test_another_base_matters_under_an_adapter(go_on, made, tmp_path, name):
    """At the same path; the model is the same where all weights are in the checkpoint."""
    shutil.copytree(made / "model", tmp_path / "kept")
    write_tiny_model(made / "model", seed=1)
    try:
        if name == "full":
            go_on(name)
        else:
            assert "the policy model has other weights than that of the checkpoint" in refused(go_on, name)
    finally:
        shutil.rmtree(made / "model")
        shutil.copytree(tmp_path / "kept", made / "model")
    assert "the weights are those of the checkpoint" in go_on(name, f"model.path={tmp_path / 'kept'}")[1]


def test_a_model_built_otherwise_is_refused(go_on):
    assert "the policy model is built otherwise" in refused(go_on, "full", "model.overrides.num_hidden_layers=3")


class Frozen(Plugin):
    """Freezes the weights that have a word in their names."""

    def __init__(self, word: str) -> None:
        super().__init__(PluginConfig())
        self.word = word

    @hookimpl
    def post_model_load(self, model):
        for name, weight in model.named_parameters():
            weight.requires_grad_(self.word not in name)


def test_moments_of_other_weights_are_refused_and_weights_alone_go_on(go_on):
    frozen = [LoadedPlugin.of(Frozen("q_proj"), "frozen")]
    text = refused(go_on, "full", plugins=frozen)
    assert "the checkpoint trained 21 tensors, and this run trains 19, which are not the same" in text
    assert "--weights-only goes on" in text
    folder, _ = go_on("full", plugins=frozen, weights_only=True)
    before, after = (load_file(folder / name / "model.safetensors") for name in ("checkpoint-3", "model"))
    assert all(torch.equal(after[name], before[name]) == ("q_proj" in name) for name in after)


# --- checkpoints that are not whole -------------------------------------------------------------------------------------------


def test_weights_alone_are_refused_unless_they_are_asked_for(go_on, made):
    shutil.copytree(made / "full", go_on.folder / "full")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (go_on.folder / "full" / "checkpoint-3" / name).unlink()
    text = refused(go_on, "full")
    assert "checkpoint-3 has no optimizer, scheduler, random state, so the run would not be the same" in text
    assert "checkpoint-3 --weights-only goes on with its weights: optimizer and schedule start anew" in text
    folder, told = go_on("full", "trainer.learning_rate=5e-4", weights_only=True)
    assert told["weights only"] == "optimizer and schedule start anew at step 3, for what is left of 6 steps"
    assert losses(folder)[1][3:] == pytest.approx([5e-4, 5e-4 * 2 / 3, 5e-4 / 3])
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["learning_rate"] == 5e-4


def test_weights_alone_let_another_optimizer_go_on(go_on):
    _, told = go_on("full", "trainer.optim=sgd", weights_only=True)
    assert told["takes effect"] == "trainer.optim was adamw_torch_fused and is sgd"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("trainer_state.json", b""),
        ("trainer_state.json", b"{}"),
        ("trainer_state.json", b'{"global_step": 3, "log_hi'),
        ("longline.json", b'{"config"'),
        ("model.safetensors", None),
        ("optimizer.pt", None),
        ("scheduler.pt", b""),
        ("rng_state.pth", None),
    ],
)
def test_a_file_that_is_cut_is_refused_by_name(go_on, made, file, content):
    folder = go_on.folder / "full"
    shutil.copytree(made / "full", folder)
    shutil.copytree(folder / "checkpoint-3", folder / "checkpoint-2")
    path = folder / "checkpoint-3" / file
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    text = refused(go_on, "full")
    assert f"checkpoint-3 is no whole checkpoint: {file}" in text
    assert f"--resume {folder / 'checkpoint-2'} goes on from another" in text
    path.unlink()
    if file != "longline.json":
        assert "checkpoint-3" in refused(go_on, "full")


def test_a_checkpoint_without_a_record_goes_on_with_a_word(go_on, made):
    shutil.copytree(made / "full", go_on.folder / "full")
    (go_on.folder / "full" / "checkpoint-3" / "longline.json").unlink()
    assert "nobody can see whether config and data are the same" in go_on("full")[1]["resumed"]


# --- weights that are published under other names -----------------------------------------------------------------------------


def test_a_mixture_of_experts_goes_on_with_its_experts(run_longline, config_of, tmp_path):
    """They are published one by one, and lie in memory as one tensor."""
    tokenizer = tiny_tokenizer()
    zoo.build("qwen3_moe", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "mixture")
    tokenizer.save_pretrained(tmp_path / "mixture")
    given = {
        "model": {"path": str(tmp_path / "mixture")},
        "trainer": {"max_steps": 4, "save_strategy": "steps", "save_steps": 2},
    }
    whole = run_longline(config_of("whole", **given))
    config = config_of("parts", **given)
    assert run_longline(config, plugins=[At(2)]).result.status == "interrupted"
    resumed = run_longline(config, resume="last")
    assert told(resumed, "loss") == told(whole, "loss")
    assert same(resumed, whole)
    assert any(".experts.0." in name for name in bits(whole))
    folders = (whole.output_dir / "checkpoint-4", whole.output_dir / "model")
    checkpoint, final = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    assert all(torch.equal(checkpoint[name], weight) for name, weight in final.items())

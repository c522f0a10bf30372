"""Real runs: the times are those that something else measured too, and training is the same as without the plugin."""

from __future__ import annotations

import json
import time

import pytest
from safetensors.torch import load_file

from longline import Plugin, PluginConfig, Timing, hookimpl
from longline.cli import run_cli
from longline.errors import PluginError
from longline.plugins import LoadedPlugin
from longline_profiling import profile, profiled
from longline_profiling.config import ProfilingConfig
from longline_profiling.plugin import ProfilingPlugin
from longline_profiling.spans import current

TAKEN = "profiling/Time taken: "
TRAINED = ("SFTTrainer.data_wait", "SFTTrainer.training_step", "SFTTrainer.compute_loss", "Accelerator.backward", "AdamW.step")


def timings(outcome):
    return json.loads((outcome.output_dir / "profile" / "timings.json").read_text())["sessions"][-1]


def spans(outcome):
    return {(row["name"], row["parent"]): row for row in timings(outcome)["spans"]}


def taken(event):
    return {name.removeprefix(TAKEN): value for name, value in event.items() if name.startswith(TAKEN)}


def plugin(**options):
    return ProfilingPlugin(ProfilingConfig(mfu=False, **options))


class Clock(Plugin):
    """Measures training steps, loss and batches itself, from inside the trainer's own class and collator."""

    def __init__(self):
        super().__init__(PluginConfig())
        self.steps, self.losses, self.batches, self.optimizer = [], [], [], []
        self.trainer = None

    @hookimpl
    def provide_trainer_class(self):
        from longline.trainers.sft import SFTTrainer as Base

        clock = self

        class SFTTrainer(Base):
            def training_step(self, *args, **kwargs):
                begin = time.perf_counter()
                result = super().training_step(*args, **kwargs)
                clock.steps.append(time.perf_counter() - begin)
                return result

            def compute_loss(self, *args, **kwargs):
                begin = time.perf_counter()
                time.sleep(0.004)
                result = super().compute_loss(*args, **kwargs)
                clock.losses.append(time.perf_counter() - begin)
                return result

        return SFTTrainer

    @hookimpl
    def provide_collator(self, run, tokenizer):
        from longline.data.collate import Collator
        from longline.data.kinds import load

        collate = Collator(pad_token_id=int(tokenizer.pad_token_id), kind=load(run.method.kind), packing=run.plan.packing)

        def slowly(rows):
            begin = time.perf_counter()
            time.sleep(0.008)
            batch = collate(rows)
            self.batches.append(time.perf_counter() - begin)
            return batch

        return slowly

    @hookimpl
    def post_trainer_create(self, trainer):
        self.trainer = trainer
        self.before = dict(vars(trainer))


def test_times_are_those_of_an_independent_clock(run_longline):
    clock = Clock()
    outcome = run_longline(plugins=[clock, plugin()], trainer={"max_steps": 6, "logging_steps": 3})
    found, train_seconds = spans(outcome), outcome.result.summary.train_seconds
    step, loss = found["SFTTrainer.training_step", None], found["SFTTrainer.compute_loss", "SFTTrainer.training_step"]
    assert (step["calls"], loss["calls"]) == (6, 6)
    assert sum(clock.steps) <= step["seconds"] <= sum(clock.steps) + 0.02
    assert sum(clock.losses) <= loss["seconds"] <= sum(clock.losses) + 0.02
    assert max(clock.losses) <= loss["longest"] <= step["longest"]
    wait = found["SFTTrainer.data_wait", None]
    assert wait["calls"] == 6
    assert wait["seconds"] >= 6 * 0.008
    assert wait["seconds"] <= sum(clock.batches) + 0.05
    assert 0.1 * train_seconds < step["seconds"] < train_seconds
    whole = timings(outcome)
    top = sum(row["seconds"] for (_, parent), row in found.items() if parent is None and row["share"] is not None)
    assert top + whole["rest_seconds"] == pytest.approx(whole["train_seconds"], rel=0.02)
    assert whole["train_seconds"] <= train_seconds
    assert step["share"] == pytest.approx(step["seconds"] / whole["train_seconds"])


def test_metrics_are_means_since_the_last_log_event(run_longline):
    clock = Clock()
    outcome = run_longline(plugins=[clock, plugin()], trainer={"max_steps": 6, "logging_steps": 3})
    logged = [event for event in outcome.log if "loss" in event]
    assert [event["step"] for event in logged] == [1, 3, 6]
    for event, (first, last) in zip(logged, [(0, 1), (1, 3), (3, 6)], strict=True):
        assert set(TRAINED) <= set(taken(event))
        own = sum(clock.losses[first:last]) / (last - first)
        assert taken(event)["SFTTrainer.compute_loss"] == pytest.approx(own, abs=0.003)
        assert event["profiling/steps_per_second"] > 0
    for name, value in taken(logged[-1]).items():
        assert outcome.result.summary.metrics[TAKEN + name] == value
        assert outcome.manifest["summary"]["metrics"][TAKEN + name] == value


def test_throughput_counts_the_trainers_tokens(run_longline):
    begin = time.perf_counter()
    outcome = run_longline(plugins=[plugin()], trainer={"max_steps": 6, "logging_steps": 2})
    seconds = time.perf_counter() - begin
    found, events = timings(outcome)["throughput"], [event for event in outcome.log if "num_tokens" in event]
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(events[-1]["num_tokens"])
    assert found["steps_per_second"] * found["seconds"] == pytest.approx(6)
    assert found["seconds"] < seconds
    rates = [event["profiling/tokens_per_second"] for event in events]
    steps = [event["profiling/steps_per_second"] for event in events]
    counts = [0] + [event["num_tokens"] for event in events]
    for rate, pace, before, after, made in zip(rates, steps, counts[:-1], counts[1:], (1, 1, 2, 2), strict=True):
        assert rate / pace == pytest.approx((after - before) / made)


def test_evaluation_and_saving_are_timed_and_no_part_of_throughput(run_longline, chat_rows):
    class Slow(Plugin):
        @hookimpl
        def post_trainer_create(self, trainer):
            evaluate, save = trainer.evaluate, trainer._save_checkpoint
            trainer.evaluate = lambda *args, **kwargs: (time.sleep(0.2), evaluate(*args, **kwargs))[1]
            trainer._save_checkpoint = lambda *args, **kwargs: (time.sleep(0.2), save(*args, **kwargs))[1]

    trainer = {"max_steps": 6, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    trainer |= {"save_strategy": "steps", "save_steps": 2}
    data = {"eval": [{"path": str(chat_rows), "format": "chat", "limit": 4}]}
    outcome = run_longline(plugins=[Slow(PluginConfig()), plugin()], trainer=trainer, data=data)
    found = spans(outcome)
    assert found["SFTTrainer.evaluate", None]["calls"] == found["SFTTrainer._save_checkpoint", None]["calls"] == 3
    assert found["SFTTrainer.evaluate", None]["seconds"] >= 0.6
    assert found["SFTTrainer._save_checkpoint", None]["mean"] >= 0.2
    inside = found["SFTTrainer.compute_loss (evaluate)", "SFTTrainer.evaluate"]
    assert inside["calls"] == 3
    assert found["SFTTrainer.compute_loss", "SFTTrainer.training_step"]["calls"] == 6
    last = found["SFTTrainer.save_model", None]
    assert (last["calls"], last["share"]) == (1, None), "the final model is saved after training"
    whole = timings(outcome)
    assert whole["throughput"]["seconds"] < whole["train_seconds"] - 1.1
    evaluated = [event for event in outcome.log if "eval_loss" in event]
    assert not any(name.startswith("profiling/") for event in evaluated for name in event)
    assert taken(outcome.log[-1])["SFTTrainer._save_checkpoint"] >= 0.2, "what came after the last step is logged at the end"


def test_training_is_the_same_as_without_the_plugin(run_longline, tmp_path, chat_rows):
    trainer = {"max_steps": 5, "eval_strategy": "steps", "eval_steps": 2, "dataloader_num_workers": 0}
    shape = {
        "trainer": {**trainer, "gradient_accumulation_steps": 2},
        "data": {"eval": [{"path": str(chat_rows), "format": "chat", "limit": 4}]},
        "adapter": {"type": "lora", "r": 4, "lora_dropout": 0.5},
    }
    with_it = ProfilingPlugin(ProfilingConfig.model_validate({"steps": {"start": 2, "count": 2}}))
    one = run_longline(**shape)
    two = run_longline(plugins=[with_it], output_dir=str(tmp_path / "two"), **shape)
    noise = ("time", "eval_runtime", "train_runtime")

    def plain(event):
        return {
            name: value
            for name, value in event.items()
            if name not in noise and not name.endswith("_per_second") and not name.startswith("profiling/")
        }

    assert [plain(event) for event in one.log] == [plain(event) for event in two.log]
    assert any(name.startswith("profiling/") for event in two.log for name in event)
    first, second = (load_file(run.output_dir / "model" / "adapter_model.safetensors") for run in (one, two))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_the_trainer_is_given_back_as_it_was(run_longline):
    clock = Clock()
    run_longline(plugins=[clock, plugin(methods=("create_scheduler",))])
    names = {name for name, value in vars(clock.trainer).items() if callable(value) and name not in clock.before}
    assert not names & {"training_step", "compute_loss", "get_batch_samples", "evaluate", "create_scheduler", "save_model"}
    assert "backward" not in vars(clock.trainer.accelerator)
    assert "Watch" not in [type(callback).__name__ for callback in clock.trainer.callback_handler.callbacks]
    assert current.get() is None


def test_enabled_false_does_nothing(run_longline):
    outcome = run_longline(plugins=[plugin(enabled=False)])
    assert not (outcome.output_dir / "profile").exists()
    assert not any(name.startswith("profiling/") for event in outcome.log for name in event)


def test_more_methods_of_the_trainer_can_be_named(run_longline):
    outcome = run_longline(plugins=[plugin(methods=("_prepare_inputs",))])
    assert spans(outcome)["SFTTrainer._prepare_inputs", "SFTTrainer.training_step"]["calls"] == 5
    with pytest.raises(PluginError, match="SFTTrainer has no method 'compute_los'") as refused:
        run_longline(plugins=[plugin(methods=("compute_los",))], overwrite=True)
    assert refused.value.exit_code == 3
    assert current.get() is None


def test_log_interval_counts_steps(run_longline):
    outcome = run_longline(plugins=[plugin(log_interval=4)], trainer={"max_steps": 10})
    have = [event["step"] for event in outcome.log if taken(event) and "loss" in event]
    assert have == [4, 8]
    assert "SFTTrainer.training_step" in taken(outcome.log[-1]), "what is left is logged at the end"
    assert spans(outcome)["SFTTrainer.training_step", None]["calls"] == 10


def test_short_spans_are_left_out_and_counted(run_longline):
    outcome = run_longline(plugins=[Clock(), plugin(min_duration_ms=4)])
    names = {name for name, _ in spans(outcome)}
    assert {"SFTTrainer.compute_loss", "SFTTrainer.data_wait"} <= names
    assert all(row["mean"] >= 0.004 for row in spans(outcome).values())
    assert timings(outcome)["short_spans"] > 0


class Author(Plugin):
    """Times its own work in three ways: by the event, by the decorator, and by a block."""

    def __init__(self):
        super().__init__(PluginConfig())
        self.heard = []

    @hookimpl
    def post_data_load(self):
        with profile("Author.look at data"):
            time.sleep(0.002)

    @profiled
    def work(self):
        time.sleep(0.003)

    @hookimpl
    def on_step_end(self, run, step):
        self.work()
        run.hook.on_timing(run=run, timing=Timing("Author.told", 0.5, step=step))

    @hookimpl
    def on_timing(self, timing):
        self.heard.append(timing)


def test_authors_get_their_own_spans_into_the_log_and_hear_each_once(run_longline):
    author = Author()
    outcome = run_longline(plugins=[author, plugin()], trainer={"max_steps": 3})
    found = spans(outcome)
    assert found["Author.told", None] | {"share": None} == {
        "name": "Author.told",
        "parent": None,
        "calls": 3,
        "seconds": 1.5,
        "mean": 0.5,
        "longest": 0.5,
        "failed": 0,
        "share": None,
        "depth": 0,
    }
    assert found["Author.work", None]["calls"] == 3
    assert found["Author.look at data", None]["share"] is None, "it was before training"
    assert taken([event for event in outcome.log if "loss" in event][-1])["Author.told"] == 0.5
    heard = [timing for timing in author.heard if timing.name == "SFTTrainer.training_step"]
    assert [timing.step for timing in heard] == [1, 2, 3]
    assert sum(timing.seconds for timing in heard) == pytest.approx(found["SFTTrainer.training_step", None]["seconds"])
    assert found["SFTTrainer.training_step", None]["calls"] == 3, "what the plugin told itself was counted again"
    assert [timing.parent for timing in author.heard if timing.name == "SFTTrainer.compute_loss"] == [
        "SFTTrainer.training_step"
    ] * 3


def test_a_failed_run_has_its_table(run_config, run_longline):
    class Breaks(Plugin):
        @hookimpl
        def provide_loss(self):
            def loss(trainer, model, inputs, num_items_in_batch):
                if trainer.state.global_step == 2:
                    raise ValueError("no loss")
                return trainer.method_loss(model, inputs, num_items_in_batch)

            return loss

    config = run_config()
    with pytest.raises(ValueError, match="no loss"):
        run_longline(config, plugins=[Breaks(PluginConfig()), plugin()])
    sessions = json.loads((config.parent / "run" / "profile" / "timings.json").read_text())["sessions"]
    rows = {row["name"]: row for row in sessions[0]["spans"]}
    assert sessions[0]["status"] == "failed"
    assert (rows["SFTTrainer.compute_loss"]["calls"], rows["SFTTrainer.compute_loss"]["failed"]) == (3, 1)
    assert rows["SFTTrainer.training_step"]["failed"] == 1
    assert current.get() is None


def test_a_resumed_run_keeps_the_figures_of_both_sessions(run_config, run_longline, capsys):
    saving = {"trainer": {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}, "plugins": {"profiling": {"mfu": False}}}
    first = run_longline(run_config(**saving))
    tokens = next(event["num_tokens"] for event in first.log if event["step"] == 2)
    again = run_longline(run_config(**saving), resume=str(first.output_dir / "checkpoint-2"))
    sessions = json.loads((first.output_dir / "profile" / "timings.json").read_text())["sessions"]
    assert [(session["first_step"], session["last_step"]) for session in sessions] == [(1, 4), (3, 4)]
    assert next(row["calls"] for row in sessions[1]["spans"] if row["name"] == "SFTTrainer.training_step") == 2
    throughput = sessions[1]["throughput"]
    trained = [event for event in again.log if "num_tokens" in event][-1]["num_tokens"] - tokens
    assert throughput["tokens_per_second"] * throughput["seconds"] == pytest.approx(trained), "the count of before was added"
    capsys.readouterr()
    assert run_cli(["profile", "show", str(first.output_dir)]) == 0
    shown = capsys.readouterr().out
    assert "steps 1 to 4, completed" in shown
    assert "steps 3 to 4, completed" in shown
    assert shown.count("SFTTrainer.training_step") == 2
    assert run_cli(["profile", "show", "--json", str(first.output_dir)]) == 0
    assert json.loads(capsys.readouterr().out) == sessions


@pytest.mark.parametrize(("content", "named"), [(None, "no timings"), ("{", "cannot be read"), ("[]", "holds no timings")])
def test_show_without_figures_says_what_to_do(content, named, tmp_path, capsys):
    if content is not None:
        (tmp_path / "profile").mkdir()
        (tmp_path / "profile" / "timings.json").write_text(content)
    assert run_cli(["profile", "show", str(tmp_path)]) == 2
    assert named in capsys.readouterr().err


def test_the_table_is_raised_for_trackers_and_printed(run_longline, capsys):
    class Tables(Plugin):
        def __init__(self):
            super().__init__(PluginConfig())
            self.tables = []

        @hookimpl
        def on_table(self, table):
            self.tables.append(table)

    tables = Tables()
    run_longline(plugins=[tables, LoadedPlugin.of(plugin(), "profiling")], trainer={"max_steps": 3})
    (table,) = tables.tables
    assert (table.name, table.step) == ("timings", 3)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["SFTTrainer.training_step"]["calls"] == 3
    assert rows["SFTTrainer.compute_loss"]["parent"] == "SFTTrainer.training_step"
    shown = capsys.readouterr().out
    assert shown.count("profiling: steps 1 to 3, completed") == 1
    assert "the rest of training" in shown

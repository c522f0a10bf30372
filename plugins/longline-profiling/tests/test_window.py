"""The window of torch.profiler: a whole trace of exactly those steps, also when the run ends within it; or a clear word."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import signal
from pathlib import Path

import pytest

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.errors import PluginError
from longline.testing import HookRecorder
from longline_profiling.config import ProfilingConfig
from longline_profiling.plugin import ProfilingPlugin


def plugin(start, count, **steps):
    options = {"mfu": False, "steps": {"start": start, "count": count, **steps}}
    return ProfilingPlugin(ProfilingConfig.model_validate(options))


class Alerts(Plugin):
    def __init__(self):
        super().__init__(PluginConfig())
        self.said = []

    @hookimpl
    def on_alert(self, alert):
        self.said.append((alert.level, alert.title, alert.text))


def events(path: Path):
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def files(folder: Path):
    return sorted(path.name for path in (folder / "profile").iterdir())


def steps_in(trace):
    return [event["name"] for event in trace if str(event.get("name", "")).startswith("ProfilerStep#")]


def test_a_trace_holds_the_steps_their_operators_and_our_spans(run_longline):
    alerts = Alerts()
    outcome = run_longline(plugins=[alerts, plugin(2, 3)], trainer={"max_steps": 6})
    assert files(outcome.output_dir) == ["timings.json", "trace-rank0-steps-2-4.json.gz"]
    trace = events(outcome.output_dir / "profile" / "trace-rank0-steps-2-4.json.gz")
    assert steps_in(trace) == ["ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"]
    names = [event["name"] for event in trace if event.get("ph") == "X"]
    assert sum(name == "SFTTrainer.training_step" for name in names) == 3
    assert sum(name == "Optimizer.step#AdamW.step" for name in names) == 3
    assert {"aten::mm", "aten::embedding", "SFTTrainer.data_wait", "Accelerator.backward"} <= set(names)
    begin, end = (event["ts"] + offset for event, offset in _first_and_last(trace))
    inside = [event for event in trace if event.get("cat") == "cpu_op"]
    assert all(begin <= event["ts"] <= end for event in inside)
    (told,) = [text for level, title, text in alerts.said if title == "trace written"]
    assert str(outcome.output_dir / "profile" / "trace-rank0-steps-2-4.json.gz") in told
    written = json.loads((outcome.output_dir / "profile" / "timings.json").read_text())["sessions"][0]["files"]
    assert written == ["profile/trace-rank0-steps-2-4.json.gz"]


def _first_and_last(trace):
    marks = [event for event in trace if str(event.get("name", "")).startswith("ProfilerStep#")]
    return (marks[0], 0.0), (marks[-1], marks[-1]["dur"])


def test_shapes_and_stacks_are_recorded_on_request(run_longline):
    outcome = run_longline(plugins=[plugin(1, 1, record_shapes=True, with_stack=True)], trainer={"max_steps": 1})
    assert files(outcome.output_dir) == ["timings.json", "trace-rank0-step-1.json.gz"]
    trace = events(outcome.output_dir / "profile" / "trace-rank0-step-1.json.gz")
    assert any("Input Dims" in (event.get("args") or {}) for event in trace)
    assert any(event.get("cat") == "python_function" for event in trace)


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_window_after_max_steps_is_refused_before_a_run(command, run_config, tmp_path, capsys):
    config = run_config(plugins={"profiling": {"steps": {"start": 9, "count": 2}}})
    assert run_cli([command, str(config)]) == 3
    said = capsys.readouterr().err
    assert "plugins.profiling.steps.start: steps.start is 9, and this run makes 5 steps: there would be no trace" in said
    assert "lower plugins.profiling.steps.start" in said
    assert not (tmp_path / "run").exists()
    off = ["--set", "plugins.profiling.enabled=false"]
    assert run_cli(["check", str(config), *off]) == 0


def test_a_window_after_the_last_epoch_is_refused_before_training(run_longline):
    recorder = HookRecorder()
    epochs = {"max_steps": None, "num_train_epochs": 1}
    with pytest.raises(PluginError, match=r"steps.start is 900, and this run makes \d+ steps") as refused:
        run_longline(plugins=[plugin(900, 2)], recorder=recorder, trainer=epochs)
    assert refused.value.exit_code == 3
    assert "steps.start" in refused.value.hint
    assert not recorder.hooks("on_train_begin")


def test_a_window_that_the_run_cuts_is_told_and_written(run_longline):
    alerts = Alerts()
    outcome = run_longline(plugins=[alerts, plugin(4, 5)])
    assert files(outcome.output_dir) == ["timings.json", "trace-rank0-steps-4-5.json.gz"]
    assert ("info", "the window of profiling is cut", "it goes to step 8, and the run to step 5") in alerts.said
    assert any("the run ended within the window, which goes to step 8" in text for _, _, text in alerts.said)


def test_an_early_stop_before_the_window_is_told(run_longline):
    class Stops(Plugin):
        @hookimpl
        def on_step_end(self, step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    alerts = Alerts()
    outcome = run_longline(plugins=[alerts, plugin(4, 1), Stops(PluginConfig())])
    assert outcome.result.exit_code == 143
    assert files(outcome.output_dir) == ["timings.json"]
    (text,) = [text for level, title, text in alerts.said if (level, title) == ("warning", "no trace")]
    assert text.startswith("the run ended after step 2, the window begins at step 4")


def test_an_interrupted_run_writes_what_it_has(run_longline):
    class Stops(Plugin):
        @hookimpl
        def on_step_end(self, step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    alerts = Alerts()
    outcome = run_longline(plugins=[alerts, plugin(2, 50), Stops(PluginConfig())], trainer={"max_steps": 100})
    assert (outcome.result.status, outcome.result.exit_code) == ("interrupted", 130)
    assert files(outcome.output_dir) == ["timings.json", "trace-rank0-steps-2-3.json.gz"]
    assert steps_in(events(outcome.output_dir / "profile" / "trace-rank0-steps-2-3.json.gz")) == [
        "ProfilerStep#2",
        "ProfilerStep#3",
    ]
    session = json.loads((outcome.output_dir / "profile" / "timings.json").read_text())["sessions"][0]
    assert (session["status"], session["last_step"]) == ("interrupted", 3)


class Breaks(Plugin):
    """Lets the loss of the third step fail."""

    @hookimpl
    def provide_loss(self):
        def loss(trainer, model, inputs, num_items_in_batch):
            result = trainer.method_loss(model, inputs, num_items_in_batch)
            if trainer.state.global_step == 2:
                raise ValueError("no loss")
            return result

        return loss


def test_a_crash_within_the_window_leaves_a_trace_that_can_be_read(run_config, run_longline, capsys):
    alerts, config = Alerts(), run_config()
    with pytest.raises(ValueError, match="no loss"):
        run_longline(config, plugins=[alerts, plugin(2, 4), Breaks(PluginConfig())])
    folder = config.parent / "run"
    assert files(folder) == ["timings.json", "trace-rank0-steps-2-3.json.gz"]
    trace = events(folder / "profile" / "trace-rank0-steps-2-3.json.gz")
    assert "ProfilerStep#3" in steps_in(trace)
    assert any(title == "trace written" for _, title, _ in alerts.said)
    capsys.readouterr()
    assert run_cli(["profile", "analyze", str(folder)]) == 0


def test_a_trace_that_cannot_be_written_costs_the_trace_and_not_the_run(run_longline):
    class Blocks(Plugin):
        @hookimpl
        def on_train_begin(self, run):
            (run.output_dir / "profile").write_text("in the way")

    alerts = Alerts()
    outcome = run_longline(plugins=[alerts, Blocks(PluginConfig()), plugin(1, 2)])
    assert outcome.result.status == "completed"
    (text,) = [text for level, title, text in alerts.said if (level, title) == ("error", "the trace could not be written")]
    assert "training goes on" in text
    assert len([event for event in outcome.log if "loss" in event]) == 5


def test_a_resumed_run_behind_the_window_says_so_and_keeps_the_trace(run_config, run_longline):
    saving = {"trainer": {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}}
    first = run_longline(run_config(**saving), plugins=[plugin(1, 1)])
    before = (first.output_dir / "profile" / "trace-rank0-step-1.json.gz").read_bytes()
    alerts = Alerts()
    run_longline(run_config(**saving), plugins=[alerts, plugin(1, 1)], resume=str(first.output_dir / "checkpoint-2"))
    assert ("info", "no trace", "the window of steps 1 to 1 is before step 3, where this run goes on") in alerts.said
    assert (first.output_dir / "profile" / "trace-rank0-step-1.json.gz").read_bytes() == before


def test_a_window_in_a_resumed_run_counts_the_runs_steps(run_config, run_longline):
    saving = {"trainer": {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}}
    first = run_longline(run_config(**saving))
    again = run_longline(run_config(**saving), plugins=[plugin(5, 1)], resume=str(first.output_dir / "checkpoint-4"))
    assert steps_in(events(again.output_dir / "profile" / "trace-rank0-step-5.json.gz")) == ["ProfilerStep#5"]


def test_the_memory_snapshot_is_asked_for_as_torch_takes_it():
    """There is no GPU here: the calls are held against the real signatures."""
    import torch

    record = inspect.signature(torch.cuda.memory._record_memory_history_impl)
    record.bind("all", stacks="python", max_entries=1)
    record.bind(None)
    assert next(iter(inspect.signature(torch.cuda.memory._record_memory_history).parameters)) == "enabled"
    inspect.signature(torch.cuda.memory._dump_snapshot).bind("file")

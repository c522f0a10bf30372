"""Golden traces: every hook of a run, in order, compared literally with a file in traces/.

`LONGLINE_UPDATE_TRACES=1 python -m pytest tests/test_traces.py` accepts what has changed; look at the difference first.
"""

from __future__ import annotations

import importlib
import signal
from pathlib import Path
from typing import get_args

import pytest

from longline import Alert, Plugin, Timing, hookimpl
from longline.cli import run_cli
from longline.errors import TrainingError
from longline.hookspecs import hook_facts
from longline.plugins import HookError, PluginConfig
from longline.plugins.run import Command
from longline.testing import HookRecorder, assert_trace
from longline.testing.process import write_entry_points

TRACES = Path(__file__).parent / "traces"

WITH_EVALUATION = {
    "data": {"eval_fraction": 0.25},
    "adapter": {"type": "lora", "r": 4},
    "trainer": {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2},
}


class At(Plugin):
    """Does something after a step."""

    def __init__(self, step: int, action) -> None:
        super().__init__(PluginConfig())
        self.step, self.action = step, action

    @hookimpl
    def on_step_end(self, run, step):
        if step == self.step:
            self.action(run)


def test_sft(run_longline):
    outcome = run_longline(trainer={"max_steps": 2})
    assert_trace(outcome.calls, TRACES / "sft.txt")


def test_sft_with_lora_evaluation_and_checkpoints(run_longline):
    outcome = run_longline(**WITH_EVALUATION)
    assert_trace(outcome.calls, TRACES / "sft-lora-eval.txt")


DPO = {"method": "dpo", "trainer": {"max_steps": 4}}


def test_dpo(run_longline, preference_rows):
    """With full weights the reference is a model of its own, and says so."""
    outcome = run_longline(**DPO, data={"train": [{"path": str(preference_rows)}]})
    assert_trace(outcome.calls, TRACES / "dpo.txt")


def test_dpo_with_lora_and_completions(run_longline, preference_rows):
    """Under an adapter no second model is loaded; the plugin makes a table every 2 steps."""
    given = {"adapter": {"type": "lora", "r": 4}, "plugins": [{"completions": {"every": 2}}]}
    outcome = run_longline(**DPO, **given, data={"train": [{"path": str(preference_rows)}]})
    assert_trace(outcome.calls, TRACES / "dpo-lora-completions.txt")


def test_grpo(run_longline, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "fish {number}"}}\n' for number in range(8)), encoding="utf-8")
    (tmp_path / "rewards_of_traces.py").write_text("def size(completions, **columns): return list(map(len, completions))\n")
    trainer = {"max_steps": 2, "num_generations": 2, "max_completion_length": 4, "beta": 0.1}
    data = {"train": [{"path": str(prompts)}]}
    outcome = run_longline(method="grpo", data=data, trainer=trainer, rewards="rewards_of_traces:size")
    assert_trace(outcome.calls, TRACES / "grpo.txt")


def test_interrupt_and_resume(run_longline, run_config):
    config = run_config(**WITH_EVALUATION)
    stopped = run_longline(config, plugins=[At(3, lambda run: signal.raise_signal(signal.SIGINT))])
    assert_trace(stopped.calls, TRACES / "interrupt.txt")
    resumed = run_longline(config, resume="last")
    assert_trace(resumed.calls, TRACES / "resume.txt")


SCRIBE = """
from longline.testing import HookRecorder

calls = []


class Scribe(HookRecorder):
    def __init__(self, config):
        super().__init__(config)
        self.calls = calls
"""


def test_commands(run_config, tmp_path, monkeypatch):
    """Every command that loads or prepares something; docs/what-a-plugin-can-do.md lists what it fires by these traces."""
    (tmp_path / "scribe_of_traces.py").write_text(SCRIBE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    scribe = importlib.import_module("scribe_of_traces")
    write_entry_points(tmp_path, {"scribe": scribe.Scribe})
    config = run_config(**WITH_EVALUATION, plugins=["scribe"])
    run = str(tmp_path / "run")
    lines = {
        "train": [config],
        "plan": [config],
        "preprocess": [config],
        "preview": [config],
        "evaluate": [run],
        "generate": [run, "--prompt", "hooks?", "--max-new-tokens", "2"],
        "merge": [run],
    }
    assert tuple(lines) == get_args(Command)
    for command, words in lines.items():
        scribe.calls.clear()
        assert run_cli([command, *map(str, words)]) == 0
        assert_trace(scribe.calls, TRACES / ("sft-lora-eval.txt" if command == "train" else f"commands/{command}.txt"))


def test_crash_before_training(run_longline):
    class Broken(Plugin):
        @hookimpl
        def post_trainer_create(self):
            raise ValueError("no such layer")

    recorder = HookRecorder()
    with pytest.raises(HookError):
        run_longline(plugins=[Broken(PluginConfig())], recorder=recorder)
    assert_trace(recorder.calls, TRACES / "crash-before-training.txt")


def test_crash_in_training(run_longline):
    class Diverge(Plugin):
        @hookimpl
        def pre_optimizer_step(self, trainer, step):
            if step == 2:
                for parameter in trainer.model.parameters():
                    parameter.grad.fill_(float("nan"))

    recorder = HookRecorder()
    with pytest.raises(TrainingError):
        run_longline(plugins=[Diverge(PluginConfig())], recorder=recorder, trainer={"max_steps": 5, "max_grad_norm": 0})
    assert_trace(recorder.calls, TRACES / "crash.txt")


def test_an_event_that_a_plugin_raises_has_its_place(run_longline):
    def tell(run):
        run.hook.on_alert(run=run, alert=Alert("a big fish", level="info", step=1))
        run.hook.on_timing(run=run, timing=Timing("Angler.wait", 0.5, step=1))
        run.fact("bait", "worms", "the fish like them")

    outcome = run_longline(plugins=[At(1, tell)], trainer={"max_steps": 1})
    assert_trace(outcome.calls, TRACES / "events.txt")


def test_every_hook_is_in_some_trace():
    """A hook that no run fires is a promise to plugin authors that nothing keeps."""
    fired = {line.partition("(")[0] for path in TRACES.glob("*.txt") for line in path.read_text().splitlines()}
    assert fired == set(hook_facts())


def test_hooks_are_documented_in_the_order_of_time():
    lines = (TRACES / "sft-lora-eval.txt").read_text().splitlines()
    first = list(dict.fromkeys(line.partition("(")[0] for line in lines))
    assert first == [name for name in hook_facts() if name in first]

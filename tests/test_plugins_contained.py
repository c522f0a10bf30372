"""A plugin that raises in every event of a real run of 50 steps costs nothing but its own data."""

from __future__ import annotations

import inspect
import logging

import pytest

from longline import Plugin, hookimpl
from longline.hookspecs import hook_facts
from longline.plugins import HookError, LoadedPlugin
from longline.testing import HookRecorder

STEPS = 50


class AlwaysFails(Plugin):
    """Answers every event with an exception."""

    def __init__(self) -> None:
        super().__init__(None)
        self.calls = 0


def _failing(name: str, arguments: tuple[str, ...]):
    def fail(self, **kwargs):
        self.calls += 1
        raise ConnectionError(f"no tracker at step {kwargs.get('step')}")

    parameters = [inspect.Parameter(argument, inspect.Parameter.KEYWORD_ONLY) for argument in arguments]
    fail.__signature__ = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters])
    fail.__name__ = name
    return hookimpl(fail)


EVENTS = {name: facts for name, facts in hook_facts().items() if facts.kind == "observe"}
for _name, _facts in EVENTS.items():
    setattr(AlwaysFails, _name, _failing(_name, _facts.arguments))


def weights(outcome) -> bytes:
    return (outcome.output_dir / "model" / "model.safetensors").read_bytes()


def test_nothing_is_lost_but_its_own_data(run_longline, caplog, tmp_path):
    trainer = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 20, "save_total_limit": 1}
    alone = run_longline(trainer=trainer, output_dir=str(tmp_path / "alone"))
    fails = AlwaysFails()
    with caplog.at_level(logging.WARNING, "longline.plugins"):
        beside = run_longline(plugins=[fails], trainer=trainer, output_dir=str(tmp_path / "beside"))

    assert beside.result.status == "completed"
    assert beside.result.exit_code == 0
    alerts = beside.hooks("on_alert")
    assert alerts
    assert set(alerts) == {"on_alert(alert=warning: alwaysfails failed)"}
    assert [call for call in beside.calls if call not in alerts] == alone.calls
    assert weights(beside) == weights(alone)
    losses = [[event["loss"] for event in outcome.log if "loss" in event] for outcome in (alone, beside)]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]

    told = [record.getMessage() for record in caplog.records if record.name == "longline.plugins"]
    account = beside.manifest["hooks"]["plugins"]["alwaysfails"]
    raised = {hook for hook, cost in account.items() if cost["failures"]}
    assert raised == {
        "on_run_start",
        "on_train_begin",
        "on_step_end",
        "on_log",
        "on_checkpoint",
        "on_train_end",
        "on_save",
        "on_trained",
        "on_alert",
        "on_run_end",
    }
    assert len(told) == len(raised)
    assert account["on_step_end"]["failures"] == account["on_step_end"]["calls"] == STEPS
    assert account["on_log"]["last_error"].startswith("ConnectionError: no tracker at step ")
    assert sum(cost["failures"] for cost in account.values()) == fails.calls


def test_on_error_raise_stops_the_run_and_every_plugin_sees_its_end(run_longline):
    class Strict(Plugin):
        @hookimpl
        def on_log(self, step):
            if step == 2:
                raise OSError("quota")

    recorder = HookRecorder()
    strict = LoadedPlugin.of(Strict(None), on_error="raise")
    with pytest.raises(HookError, match="plugin 'strict' stopped the run in on_log: OSError: quota"):
        run_longline(plugins=[strict], recorder=recorder, trainer={"max_steps": 5})
    assert recorder.hooks("on_step_end")[-1] == "on_step_end(step=2)"
    assert recorder.calls[-2:] == ["on_error(error=HookError)", "on_run_end(status=failed, summary=Summary)"]


def test_a_shape_hook_that_raises_stops_the_run_by_name(run_longline):
    class Shaper(Plugin):
        @hookimpl
        def post_trainer_create(self, trainer):
            raise ValueError("no such layer")

    recorder = HookRecorder()
    with pytest.raises(HookError, match="plugin 'shaper' stopped the run in post_trainer_create: ValueError: no such layer"):
        run_longline(plugins=[Shaper(None)], recorder=recorder)
    assert recorder.hooks("on_train_begin") == []
    assert recorder.calls[-1] == "on_run_end(status=failed, summary=Summary)"


def test_a_plugin_replaces_the_cores_optimizer_by_the_same_door(run_longline):
    class Frozen(Plugin):
        @hookimpl
        def provide_optimizer(self, model):
            import torch

            return torch.optim.SGD(model.parameters(), lr=0.0)

    outcome = run_longline(plugins=[Frozen(None)], trainer={"max_steps": 3})
    from safetensors.torch import load_file

    from longline.testing import write_tiny_model

    fresh = outcome.output_dir.parent / "fresh"
    write_tiny_model(fresh)
    before, after = load_file(fresh / "model.safetensors"), load_file(outcome.output_dir / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)

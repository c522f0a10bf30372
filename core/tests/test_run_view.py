"""What plugins are handed: a run that is read, metrics that may be added to, answers that are looked at, a plan that is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longline import Alert, ConfigError, Plugin, PluginConfig, Problem, hookimpl
from longline.cli import run_cli
from longline.errors import PluginError
from longline.plugins import HookError, LoadedPlugin


def made(cls: type[Plugin]) -> Plugin:
    return cls(PluginConfig())


# --- the run is read ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plan", "phase", "summary", "output_dir", "anything"])
def test_a_plugin_cannot_move_the_run_on(run_longline, name):
    class Mover(Plugin):
        @hookimpl
        def pre_data_load(self, run):
            setattr(run, name, None)

    with pytest.raises(HookError, match=r"'mover' stopped the run in pre_data_load: \w+Error"):
        run_longline(plugins=[made(Mover)])


def test_what_a_run_tells(run_longline):
    class Reader(Plugin):
        told: dict = {}  # noqa: RUF012 - of one test

        @hookimpl
        def on_train_begin(self, run):
            self.told = {
                name: getattr(run, name) for name in ("command", "phase", "rank", "world_size", "is_main", "resumed_from")
            }
            self.told["steps"] = run.plan.steps
            self.told["path"] = run.config_path.name

    reader = made(Reader)
    run_longline(plugins=[reader], trainer={"max_steps": 2})
    expected = {"command": "train", "phase": "train", "rank": 0, "world_size": 1, "is_main": True, "resumed_from": None}
    assert reader.told == {**expected, "steps": 2, "path": "config.yaml"}


# --- one plan -------------------------------------------------------------------------------------------------------------------


class Longer(Plugin):
    """Changes what the plan was built from."""

    @hookimpl
    def pre_trainer_args(self, trainer_args):
        trainer_args |= {"max_steps": 4, "seed": 7, "per_device_train_batch_size": 4, "activation_checkpointing": True}


def test_the_plan_is_that_of_the_final_arguments(run_longline, capsys):
    class Reader(Plugin):
        @hookimpl
        def post_trainer_create(self, run, trainer):
            plan = run.plan
            self.plan = (plan.steps, plan.seed, plan.global_batch, plan.checkpointing)
            self.trainer = (trainer.args.max_steps, trainer.args.seed, trainer.args.train_batch_size)

    reader = made(Reader)
    outcome = run_longline(plugins=[made(Longer), reader], trainer={"max_steps": 2, "per_device_train_batch_size": 2})
    assert reader.plan == (4, 7, 4, True)
    assert reader.trainer == (4, 7, 4)
    plan = outcome.manifest["plan"]
    assert (plan["steps"], plan["seed"]) == ("4", "7")
    assert plan["batch"] == "4 rows a step"
    assert outcome.manifest["summary"]["steps"] == 4
    assert "4 steps of 4 rows" in (outcome.output_dir / "model" / "README.md").read_text()
    assert "4 steps" in capsys.readouterr().out


# --- what provide hooks answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "answer", "reason"),
    [
        ("provide_loss", 3, "a int is no function"),
        ("provide_collator", "text", "a str is no function"),
        ("provide_trainer_class", dict, "a class that derives from LonglineTrainer"),
        ("provide_optimizer", object(), "has no step or param_groups"),
        ("provide_scheduler", object(), "has no step"),
        ("provide_model", object(), "has no config"),
        ("provide_dataset", [1], "has no column_names"),
    ],
)
def test_an_answer_of_the_wrong_kind_names_the_plugin(run_longline, hook, answer, reason):
    cls = type("Wrong", (Plugin,), {hook: hookimpl(_answering(hook, answer))})
    with pytest.raises(HookError, match=f"'wrong' stopped the run in {hook}: .*{reason}"):
        run_longline(plugins=[made(cls)])


def _answering(hook: str, answer: object):
    def method(self, run):
        return answer

    method.__name__ = hook
    return method


def test_an_answer_can_build_on_the_cores(run_longline, tmp_path):
    class Doubled(Plugin):
        """Twice the loss; gradients are clipped to nothing, so that nothing else changes."""

        claims = frozenset({"loss"})

        @hookimpl
        def provide_loss(self, run, model):
            own = run.default("provide_loss")(model=model)

            def loss(trainer, model, inputs, num_items_in_batch):
                value, outputs = own(trainer, model, inputs, num_items_in_batch)
                return 2 * value, outputs

            return loss

    alone = run_longline(trainer={"max_steps": 1}, output_dir=str(tmp_path / "alone"))
    doubled = run_longline(plugins=[made(Doubled)], trainer={"max_steps": 1}, output_dir=str(tmp_path / "doubled"))
    assert doubled.log[0]["loss"] == pytest.approx(2 * alone.log[0]["loss"], rel=1e-6)


# --- metrics --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda logs: logs.update(loss=0.0), "changed the metric 'loss', which it did not add"),
        (lambda logs: logs.pop("loss"), "changed the metric 'loss'"),
        (lambda logs: logs.clear(), "which it did not add"),
        (lambda logs: logs.update(mine="high"), "the metric 'mine' is a str, not a number"),
        (lambda logs: logs.__setitem__("mine", None), "the metric 'mine' is a NoneType, not a number"),
    ],
)
def test_pre_log_may_add_and_nothing_else(run_longline, change, reason):
    class Meddler(Plugin):
        @hookimpl
        def pre_log(self, logs):
            if "loss" in logs:
                change(logs)

    with pytest.raises(HookError, match=f"'meddler' stopped the run in pre_log: .*{reason}"):
        run_longline(plugins=[made(Meddler)], trainer={"max_steps": 1})


def test_a_plugin_leaves_the_metrics_of_another_alone_and_may_correct_its_own(run_longline, tmp_path):
    class Adds(Plugin):
        @hookimpl
        def pre_log(self, logs):
            logs["depth"] = 1
            logs["depth"] = torch.tensor(2.5)

    class Changes(Plugin):
        @hookimpl
        def pre_log(self, logs):
            logs["depth"] = 3

    outcome = run_longline(plugins=[made(Adds)], trainer={"max_steps": 1}, output_dir=str(tmp_path / "own"))
    assert outcome.log[0]["depth"] == 2.5
    with pytest.raises(HookError, match=r"'changes' stopped the run in pre_log: .*'depth'"):
        run_longline(plugins=[made(Adds), made(Changes)], trainer={"max_steps": 1}, output_dir=str(tmp_path / "others"))


def test_what_is_logged_between_two_events_of_the_trainer_is_of_its_step(run_longline, capsys):
    class Counts(Plugin):
        @hookimpl
        def on_step_end(self, run, step):
            if step == 3:
                run.log({"mine": 1.0})

    outcome = run_longline(plugins=[Counts(PluginConfig())], trainer={"max_steps": 4, "logging_steps": 100})
    assert [event["step"] for event in outcome.log if "mine" in event] == [3]
    assert "step 3/4" not in capsys.readouterr().out, "a line without a number"


def test_metrics_can_be_logged_after_training(run_longline):
    class Judge(Plugin):
        @hookimpl
        def on_train_end(self, run):
            run.log({"score": torch.tensor(0.75), "rank": 1})

    outcome = run_longline(plugins=[made(Judge)], trainer={"max_steps": 2})
    last = outcome.log[-1]
    assert (last["step"], last["score"], last["rank"]) == (2, 0.75, 1)
    assert outcome.manifest["summary"]["metrics"]["score"] == 0.75
    assert outcome.hooks("on_log")[-1] == "on_log(logs=[rank score], step=2)"
    assert "score" not in (outcome.output_dir / "model" / "README.md").read_text()


# --- refused before a run -------------------------------------------------------------------------------------------------------


class Picky(Plugin):
    """Refuses one learning rate, and anything when its own option is not liked."""

    def check(self, config, plan):
        if plan.trainer_args.get("learning_rate") == 0.5:
            yield Problem("that is too fast", path="trainer.learning_rate", hint="0.1")
        if config.data.max_length == 77:
            raise ConfigError("77 is no length", hint="78")


def test_a_check_refuses_before_any_work(run_longline, run_config):
    config = run_config(trainer={"learning_rate": 0.5})
    with pytest.raises(PluginError, match=r"config.yaml:\d+:\d+: trainer.learning_rate: picky: that is too fast \(0.1\)"):
        run_longline(config, plugins=[made(Picky)])
    with pytest.raises(PluginError, match=r"plugins.picky: 77 is no length \(78\)"):
        run_longline(run_config(data={"max_length": 77}), plugins=[made(Picky)])
    assert not (Path(config).parent / "run").exists()


def test_a_check_that_fails_names_the_plugin(run_longline):
    class Broken(Plugin):
        def check(self, config, plan):
            raise ZeroDivisionError("by zero")

    with pytest.raises(
        PluginError, match=r"plugin 'broken' cannot check the config: ZeroDivisionError: by zero \(.*\.py:\d+\)"
    ):
        run_longline(plugins=[made(Broken)])


def test_what_another_plugin_does_to_the_arguments_is_checked_too(run_longline):
    class Faster(Plugin):
        @hookimpl
        def pre_trainer_args(self, trainer_args):
            trainer_args["learning_rate"] = 0.5

    with pytest.raises(PluginError, match="picky: that is too fast"):
        run_longline(plugins=[made(Picky), made(Faster)])


# --- facts ----------------------------------------------------------------------------------------------------------------------


def test_a_fact_is_told_once_and_stands_everywhere(run_longline, capsys):
    class Teller(Plugin):
        @hookimpl
        def pre_trainer_args(self, run):
            run.fact("bait", "worms", "the first")

        @hookimpl
        def on_train_begin(self, run):
            run.fact("bait", 3, "the second")

    outcome = run_longline(plugins=[made(Teller)], trainer={"max_steps": 1})
    assert outcome.manifest["plan"]["bait"] == "3"
    assert "- bait: 3 (the second)" in (outcome.output_dir / "model" / "README.md").read_text()
    assert "bait  worms  (the first)" in capsys.readouterr().out
    assert outcome.hooks("on_fact") == [
        "on_fact(name=bait, value=worms, why=the first)",
        "on_fact(name=bait, value=3, why=the second)",
    ]


# --- other models ---------------------------------------------------------------------------------------------------------------


def test_a_further_model_is_loaded_as_a_reference_is(run_longline, tiny_model_dir):
    class Teacher(Plugin):
        @hookimpl
        def post_model_load(self, run, role):
            if role == "policy":
                self.teacher = run.load_model(str(tiny_model_dir), role="teacher", dtype="float32")

        @hookimpl
        def post_tokenizer_load(self, run, tokenizer):
            self.words = run.load_tokenizer(str(tiny_model_dir)).get_vocab() == tokenizer.get_vocab()

        @hookimpl
        def on_train_begin(self, run):
            self.late = run.load_model(str(tiny_model_dir), role="late")

    plugin = made(Teacher)
    outcome = run_longline(plugins=[plugin], trainer={"max_steps": 1})
    roles = sorted(line.rpartition("role=")[2].strip(")") for line in outcome.hooks("pre_model_load"))
    assert roles == ["late", "policy", "teacher"]
    assert plugin.words
    for model in (plugin.teacher, plugin.late):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_further_model_that_is_not_there_names_what_was_asked(run_longline):
    class Teacher(Plugin):
        @hookimpl
        def on_train_begin(self, run):
            run.load_model("./no/such/model", role="teacher")

    with pytest.raises(HookError, match=r"no such folder: \./no/such/model"):
        run_longline(plugins=[LoadedPlugin.of(made(Teacher), on_error="raise")])


def test_no_model_is_loaded_too_early(run_longline):
    class Hasty(Plugin):
        @hookimpl
        def pre_data_load(self, run):
            run.load_model("model", role="teacher")

    class Hastier(Plugin):
        @hookimpl
        def pre_tokenizer_load(self, run):
            run.load_tokenizer("model")

    with pytest.raises(HookError, match="in the phase data no model can be loaded yet"):
        run_longline(plugins=[made(Hasty)])
    with pytest.raises(HookError, match="in the phase tokenizer no tokenizer can be loaded yet"):
        run_longline(plugins=[made(Hastier)], overwrite=True)


def test_a_plugin_can_bring_the_model(run_longline):
    class Bringer(Plugin):
        @hookimpl
        def provide_model(self, run, model_kwargs, role):
            model = run.default("provide_model")(model_kwargs=model_kwargs, role=role)
            with torch.no_grad():
                model.lm_head.weight.zero_()
            return model

    outcome = run_longline(plugins=[made(Bringer)], trainer={"max_steps": 1})
    vocabulary = json.loads((outcome.output_dir / "model" / "config.json").read_text())["vocab_size"]
    assert outcome.log[0]["loss"] == pytest.approx(torch.log(torch.tensor(float(vocabulary))).item(), rel=1e-5)


def test_plan_shows_what_plugins_change_and_tell(run_config, tmp_path, monkeypatch, capsys):
    site = tmp_path / "site"
    info = site / "longline_longer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-longer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longline]\nlonger = longline_longer:Longer\n")
    (site / "longline_longer.py").write_text(LONGER)
    monkeypatch.syspath_prepend(str(site))
    assert run_cli(["plan", str(run_config(plugins=["longer"]))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "batch 4 rows a step 4 per device" in out
    assert "bait worms the fish like them" in out
    assert "learning_rate 0.5 a plugin, in pre_trainer_args" in out


LONGER = """
from longline import Plugin, hookimpl

class Longer(Plugin):
    @hookimpl
    def pre_trainer_args(self, run, trainer_args):
        trainer_args |= {"per_device_train_batch_size": 4, "learning_rate": 0.5}
        run.fact("bait", "worms", "the fish like them")
"""


def test_an_alert_of_an_unknown_level_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match=r"Alert\(level='critical'\): the levels are info, warning, error"):
        Alert("title", level="critical")


def test_a_keyboard_interrupt_in_a_plugin_interrupts_the_run(run_longline):
    class Interrupting(Plugin):
        @hookimpl
        def on_step_end(self):
            raise KeyboardInterrupt

    result = run_longline(plugins=[Interrupting(PluginConfig())]).result
    assert (result.status, result.exit_code) == ("interrupted", 130)
    assert json.loads((result.output_dir / "run.json").read_text())["status"] == "interrupted"


def test_an_alert_with_text_that_no_terminal_should_see_is_told_all_the_same(run_longline, capsys):
    class Foreign(Plugin):
        @hookimpl
        def on_log(self, run):
            run.hook.on_alert(run=run, alert=Alert("a \x1b[2J title", "half \ud83d of a pair"))

    outcome = run_longline(plugins=[LoadedPlugin.of(Foreign(PluginConfig()), on_error="raise")])
    assert outcome.result.status == "completed"
    out = capsys.readouterr().out
    assert "a \\x1b[2J title: half \\ud83d of a pair" in out
    assert "\x1b[2J" not in out


ODD = {"a\nb": 1.0, "c\u2028d": 2.0, "half\ud83d": 3.0, "bell\x9b": float("inf")}


def test_metrics_with_odd_names_leave_every_file_readable(run_longline, capsys):
    class Odd(Plugin):
        @hookimpl
        def pre_log(self, logs):
            logs.update(ODD)

        @hookimpl
        def on_save(self, run):
            run.log({"late\x85": 1.0})

    outcome = run_longline(plugins=[made(Odd)], trainer={"max_steps": 2})
    assert {name: outcome.log[0][name] for name in ODD} == {**ODD, "bell\x9b": "Infinity"}
    lines = (outcome.output_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()  # which splits at \u2028 and \x85 too
    assert all(json.loads(line)["step"] in (1, 2) for line in lines)
    metrics = outcome.manifest["summary"]["metrics"]
    assert {"a\nb", "c\\u2028d", "half\\ud83d", "bell\\x9b"} <= set(metrics)
    assert "\x9b" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["step", "time"])
def test_a_plugin_cannot_take_the_place_of_what_a_log_event_says_itself(run_longline, name):
    class Taker(Plugin):
        @hookimpl
        def pre_log(self, logs):
            logs[name] = 0.0

    with pytest.raises(HookError, match=f"a metric cannot be called '{name}', which every log event has of its own"):
        run_longline(plugins=[made(Taker)])


def test_a_trainers_own_metric_called_step_leaves_the_lines_own(run_longline):
    class Telling(Plugin):
        @hookimpl
        def post_trainer_create(self, trainer):
            trainer.add_callback(Ends())

    from transformers import TrainerCallback

    class Ends(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logs["step"] = 99.0

    assert [(event["step"], event["step_"]) for event in run_longline(plugins=[made(Telling)]).log[:2]] == [
        (1, 99.0),
        (2, 99.0),
    ]


def test_what_was_told_is_in_the_manifest_and_at_the_end(run_longline, capsys):
    class Warns(Plugin):
        @hookimpl
        def on_log(self, run, step):
            run.alert("the net\n is torn", f"at {step}", "error")

    outcome = run_longline(plugins=[made(Warns)], trainer={"max_steps": 3})
    [told] = [told for told in outcome.manifest["alerts"] if told["title"].startswith("the net")]
    assert (told["level"], told["text"], told["count"]) == ("error", "at 3", 4)  # three steps, and what training came to
    end = capsys.readouterr().out.split("completed")[1]
    assert "error: the net\\n is torn (4 times)" in end

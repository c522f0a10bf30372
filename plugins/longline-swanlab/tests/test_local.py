"""Real runs of a tiny model in mode local, read back from a real `swanlab watch`; and the modes without anybody to talk to."""

from __future__ import annotations

import json
import signal
import socket
from importlib.metadata import version
from itertools import count
from pathlib import Path

import pytest
import yaml

from longline import Plugin, PluginConfig, Table, hookimpl
from longline.plugins import LoadedPlugin
from longline.testing import at_step
from longline_swanlab.config import SwanLabConfig
from longline_swanlab.plugin import SwanLabPlugin
from longline_swanlab.text import flat

NUMBERS = count()
COLUMNS = ("prompt", "chosen", "reward_chosen", "margin", "good")
ROWS = (
    ("How many hooks?", "Seven.\nNo more.", 1.23456, -0.5, True),
    ("Which bait? 🐟 <b>&", "Squid", 0.25, float("nan"), None),
)


def swanlab(log_dir: Path, **options) -> LoadedPlugin:
    return LoadedPlugin.of(
        SwanLabPlugin(SwanLabConfig(**{"project": "fish", "mode": "local", "log_dir": log_dir, **options})), "swanlab"
    )


class Adds(Plugin):
    """Adds metrics, as a profiler does."""

    @hookimpl
    def pre_log(self, logs, step):
        logs["profiling/Time taken: Trainer.training_step"] = 0.5 * step
        if step == 3:
            logs["odd"] = float("nan")
        elif step == 4:
            logs["odd"] = 1.0


def logged(outcome, name: str) -> list[tuple[int, float]]:
    """The values of a metric in log.jsonl."""
    return [(event["step"], event[name]) for event in outcome.log if name in event]


def table(run, step):
    run.hook.on_table(run=run, table=Table("completions", COLUMNS, ROWS, step))


# --- the dashboard --------------------------------------------------------------------------------------------------------------


def test_the_dashboard_shows_what_the_run_logged(run_longline, tmp_path, watch):
    many = Table("many", ("prompt", "reward"), tuple((f"p{index}", float(index)) for index in range(130)), 4)
    outcome = run_longline(
        plugins=[
            swanlab(tmp_path / "log", experiment_name="first cast", description="with a net"),
            at_step(2, table),
            at_step(4, table),
            at_step(4, lambda run, step: run.hook.on_table(run=run, table=many)),
            at_step(3, lambda run, step: run.alert("the net", "is torn\nin two places")),
            at_step(3, lambda run, step: run.alert("and again", "")),
            Adds(PluginConfig()),
        ],
        data={"eval_fraction": 0.2},
        trainer={"eval_strategy": "steps", "eval_steps": 2},
    )
    board = watch(tmp_path / "log")
    project = board.get("project")
    assert project["name"] == "fish"
    [experiment] = project["experiments"]
    assert (experiment["name"], experiment["description"], experiment["status"]) == ("first cast", "with a net", 1)

    charts = board.charts()
    for name in ("loss", "learning_rate", "grad_norm", "eval_loss", "profiling/Time taken: Trainer.training_step"):
        assert charts[name] == "line"
        told = dict(logged(outcome, name))  # an evaluation is a second event of its step
        assert told
        assert dict(board.series(name)) == told, name
    assert len(board.series("loss")) == 5

    assert charts["completions"] == "text"
    texts = board.texts("completions")
    assert [step for step, _, _ in texts] == [2, 2, 4, 4]
    assert texts[0][1:] == (
        "good True · margin -0.5 · reward_chosen 1.235",
        "[prompt]\nHow many hooks?\n\n[chosen]\nSeven.\nNo more.",
    )
    assert texts[1][1] == "reward_chosen 0.25"
    assert "🐟 <b>&" in texts[1][2]
    assert "[margin]\nnan" in texts[1][2]
    assert [len(board.texts(name)) for name in ("many", "many (2)")] == [108, 22]
    assert board.texts("many (2)")[-1][1:] == ("reward 129", "[prompt]\np129")

    alerts = [(caption, text) for _, caption, text in board.texts("alerts")]
    assert alerts[:2] == [
        ("warning · the net · step 3", "is torn\nin two places"),
        ("warning · and again · step 3", "and again"),
    ]
    assert "odd is nan at step 3" in alerts[2][1]
    assert board.series("odd") == [(4, 1.0)]  # one value that is not finite would have taken the whole chart away


def test_config_versions_and_environment(run_longline, tmp_path, watch):
    outcome = run_longline(plugins=[swanlab(tmp_path / "log")], adapter={"type": "lora", "r": 4})
    experiment = watch(tmp_path / "log").get("experiment/1")
    config = {name: item["value"] for name, item in experiment["config"].items()}
    resolved = yaml.safe_load((outcome.output_dir / "config.yaml").read_text())
    assert {name: value for name, value in config.items() if not name.startswith("longline.")} == flat(resolved)
    assert config["adapter.r"] == 4
    assert config["data.train.0.path"].endswith("chat.jsonl")
    assert config["longline.run"] == outcome.manifest["id"]
    assert {name: config[f"longline.plan.{name}"] for name in outcome.manifest["plan"]} == outcome.manifest["plan"]
    for name in ("longline", "torch", "transformers", "swanlab"):
        assert config[f"longline.versions.{name}"] == version(name)
    assert experiment["name"] == "run"  # the folder
    system = experiment["system"]
    assert system["hardware"]["cpu"]["logical_count"]
    assert "longline_swanlab.recorder --" in system["command"]
    assert system["hostname"] == socket.gethostname()
    assert "longline==" in (tmp_path / "log" / experiment["run_id"] / "files" / "requirements.txt").read_text()


def test_nothing_of_the_machine_if_that_is_not_wanted(run_longline, tmp_path):
    run_longline(plugins=[swanlab(tmp_path / "log", environment=False)], trainer={"max_steps": 1})
    [files] = (tmp_path / "log").glob("run-*/files")
    metadata = json.loads((files / "swanlab-metadata.json").read_text())
    assert not any(metadata[name] for name in ("hardware", "runtime", "git", "swanlab"))
    assert not (files / "requirements.txt").exists()


# --- how a run ends -------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped(run_longline, tmp_path, watch):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    outcome = run_longline(
        plugins=[swanlab(tmp_path / "log"), at_step(3, lambda run, step: signal.raise_signal(signal.SIGINT)), at_step(3, table)]
    )
    assert outcome.result.exit_code == 130
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    board = watch(tmp_path / "log")
    assert board.get("project")["experiments"][0]["status"] == -1
    assert "stopped by a signal after step 3" in board.get("experiment/1/recent_log")["error"]
    assert len(board.series("loss")) == 3
    assert len(board.texts("completions")) == 2


def test_a_run_that_fails_before_anything_is_loaded(run_longline, tmp_path, watch):
    class Stops(Plugin):
        @hookimpl
        def pre_trainer_args(self):
            raise ValueError("not today")

    with pytest.raises(Exception, match="not today"):
        run_longline(plugins=[swanlab(tmp_path / "log"), Stops(PluginConfig())])
    assert watch(tmp_path / "log").get("project")["experiments"][0]["status"] == -1


def test_a_run_that_fails(run_longline, tmp_path, watch):
    class Breaks(Plugin):
        @hookimpl
        def pre_optimizer_step(self, step):
            if step == 3:
                raise ValueError("the line broke")

    with pytest.raises(Exception, match="the line broke"):
        run_longline(plugins=[swanlab(tmp_path / "log"), Breaks(PluginConfig())])
    board = watch(tmp_path / "log")
    assert board.get("project")["experiments"][0]["status"] == -1
    assert any("train: " in line and "the line broke" in line for line in board.get("experiment/1/recent_log")["error"])


# --- going on -------------------------------------------------------------------------------------------------------------------

SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


def crash(run, step):
    raise SystemError("out of the blue")


def test_a_resumed_run_goes_on_in_the_same_experiment(run_longline, tmp_path, watch):
    """Also what was logged after the last checkpoint: those steps are made again, and count once."""
    strict = at_step(5, crash, on_error="raise")
    with pytest.raises(Exception, match="out of the blue"):
        run_longline(plugins=[swanlab(tmp_path / "log"), at_step(2, table), at_step(4, table), strict], trainer=SAVES)
    outcome = run_longline(
        plugins=[swanlab(tmp_path / "log"), at_step(5, table), Adds(PluginConfig())], trainer=SAVES, resume="last"
    )
    board = watch(tmp_path / "log")
    [experiment] = board.get("project")["experiments"]
    assert (experiment["status"], experiment["id"]) == (1, 1)
    assert board.series("loss") == logged(outcome, "loss")
    assert [step for step, _ in board.series("loss")] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _, _ in board.texts("completions")] == [2, 2, 4, 4, 5, 5]
    assert board.charts()["profiling/Time taken: Trainer.training_step"] == "line"  # new in the second part
    memory = json.loads((outcome.output_dir / "swanlab.json").read_text())
    assert len(memory["parts"]) == 2
    assert memory["folder"] == memory["parts"][0]


def test_never_begins_a_new_experiment(run_longline, tmp_path, watch):
    stop = at_step(2, lambda run, step: signal.raise_signal(signal.SIGINT))
    run_longline(plugins=[swanlab(tmp_path / "log"), stop], trainer=SAVES)
    run_longline(plugins=[swanlab(tmp_path / "log", resume="never")], trainer=SAVES, resume="last")
    board = watch(tmp_path / "log")
    assert len(board.get("project")["experiments"]) == 2
    assert [step for step, _ in board.series("loss", 2)] == [3, 4, 5, 6]


def test_must_is_refused_without_an_experiment(run_longline, tmp_path):
    with pytest.raises(Exception, match="resume: must, and there is no experiment to go on with"):
        run_longline(plugins=[swanlab(tmp_path / "log", resume="must")])
    assert not (tmp_path / "log").exists()


def test_another_mode_begins_a_new_experiment_and_says_so(run_longline, tmp_path, capsys):
    stop = at_step(2, lambda run, step: signal.raise_signal(signal.SIGINT))
    run_longline(plugins=[swanlab(tmp_path / "log", mode="offline"), stop], trainer=SAVES)
    run_longline(plugins=[swanlab(tmp_path / "log")], trainer=SAVES, resume="last")
    assert "was tracked in mode offline; mode local begins a new experiment" in capsys.readouterr().out


def test_an_overwritten_run_is_a_new_experiment(run_longline, tmp_path, watch):
    run_longline(plugins=[swanlab(tmp_path / "log")], trainer=SAVES)
    run_longline(plugins=[swanlab(tmp_path / "log")], trainer=SAVES, overwrite=True)
    experiments = watch(tmp_path / "log").get("project")["experiments"]
    assert sorted(item["name"] for item in experiments) == ["run", "run-2"]


# --- the other modes ------------------------------------------------------------------------------------------------------------


def test_disabled_does_nothing(run_longline, tmp_path):
    outcome = run_longline(plugins=[swanlab(tmp_path / "log", mode="disabled"), at_step(2, table)])
    assert outcome.result.status == "completed"
    assert not (tmp_path / "log").exists()
    assert not (outcome.output_dir / "swanlab.json").exists()


def test_an_unwritable_folder_is_refused_before_any_work(run_longline, tmp_path):
    (tmp_path / "log").write_text("a file")
    with pytest.raises(Exception, match="exists but is not a directory"):
        run_longline(plugins=[swanlab(tmp_path / "log")])
    assert not (tmp_path / "run" / "model").exists()


def test_no_other_process_is_left(run_longline, tmp_path):
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run_longline(plugins=[swanlab(tmp_path / "log")], trainer={"max_steps": 1})
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_the_console_and_the_hooks_of_the_interpreter_stay(run_longline, tmp_path):
    import sys

    modules = set(sys.modules)
    before = (sys.stdout, sys.stderr, sys.excepthook)
    seen = []
    run_longline(
        plugins=[swanlab(tmp_path / "log"), at_step(2, lambda run, step: seen.append((sys.stdout, sys.stderr, sys.excepthook)))]
    )
    assert seen == [before]
    assert not {name for name in set(sys.modules) - modules if name.partition(".")[0] in ("swanlab", "swanboard")}

"""Other trackers in the same run are named with what they cost; and the real command, also on two ranks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

from longline import Plugin, PluginConfig, hookimpl
from longline.plugins import LoadedPlugin
from longline_swanlab.config import SwanLabConfig
from longline_swanlab.plugin import SwanLabPlugin


def swanlab(log_dir) -> LoadedPlugin:
    return LoadedPlugin.of(SwanLabPlugin(SwanLabConfig(project="fish", mode="local", log_dir=log_dir)), "swanlab")


class Net(Plugin):
    """A tracker that takes its time."""

    tracker = True

    @hookimpl
    def on_log(self):
        time.sleep(0.05)


class ByCallback(Plugin):
    """Adds a tracker of transformers, as a script would."""

    @hookimpl
    def post_trainer_create(self, trainer):
        from swanlab.integration.transformers import SwanLabCallback  # that of transformers itself fails with this swanlab

        trainer.add_callback(SwanLabCallback())


def test_a_plugin_that_tracks_too_is_named_with_its_share(run_longline, tmp_path, capsys):
    outcome = run_longline(plugins=[swanlab(tmp_path / "log"), LoadedPlugin.of(Net(PluginConfig()), "net")])
    told = capsys.readouterr().out
    found = re.search(r"another tracker runs beside SwanLab: net ([\d.e+]+) % of the training time, swanlab ([\d.e-]+) %", told)
    assert found, told
    cost = outcome.manifest["hooks"]["plugins"]["net"]["on_log"]["seconds"]
    measured = 100 * cost / outcome.result.summary.metrics["train_runtime"]
    assert abs(float(found[1]) - measured) < 0.3 * measured
    assert float(found[2]) < float(found[1]) / 10


def test_it_is_named_after_a_while_in_a_long_run(run_longline, tmp_path):
    outcome = run_longline(
        plugins=[swanlab(tmp_path / "log"), LoadedPlugin.of(Net(PluginConfig()), "net")],
        trainer={"max_steps": 120, "logging_steps": 20},
    )
    lines = [line for line in outcome.calls if line.startswith(("on_alert", "on_step_end(step=119"))]
    assert lines == ["on_alert(alert=info: another tracker runs beside SwanLab)", "on_step_end(step=119)"]


def test_a_callback_of_transformers_is_named_too(run_longline, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SWANLAB_MODE", "disabled")  # for that one; our option comes before the variable
    run_longline(plugins=[swanlab(tmp_path / "log"), ByCallback(PluginConfig())])
    assert re.search(r"another tracker runs beside SwanLab: SwanLabCallback [\d.]+ %", capsys.readouterr().out)


def test_alone_nothing_is_said(run_longline, tmp_path, capsys):
    run_longline(plugins=[swanlab(tmp_path / "log")])
    assert "another tracker" not in capsys.readouterr().out


def test_a_run_that_is_killed_is_finished_as_crashed(run_config, tmp_path, watch):
    path = run_config(
        plugins=[{"swanlab": {"project": "fish", "mode": "local", "log_dir": str(tmp_path / "log")}}],
        trainer={"max_steps": 100_000},
    )
    process = subprocess.Popen([sys.executable, "-m", "longline", "train", str(path)], stdout=subprocess.DEVNULL)
    log = tmp_path / "run" / "log.jsonl"
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > 200) and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    process.wait()
    board = watch(tmp_path / "log")
    while board.get("project")["experiments"][0]["status"] == 0 and time.monotonic() < until:
        time.sleep(0.1)
    assert board.get("project")["experiments"][0]["status"] == -1
    assert "the training process ended without a word" in board.get("experiment/1/recent_log")["error"]
    assert len(board.series("loss")) >= 10


def test_the_command_on_two_ranks(run_config, tmp_path, watch):
    """One experiment, from the main rank; every step of it once."""
    path = run_config(plugins=[{"swanlab": {"project": "fish", "mode": "local", "log_dir": str(tmp_path / "log")}}])
    command = [sys.executable, "-m", "longline", "train", "--nproc", "2", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("swanlab: fish / run: swanlab watch") == 2  # at the start and at the end
    assert len(list((tmp_path / "log").glob("run-*"))) == 1
    board = watch(tmp_path / "log")
    assert len(board.get("project")["experiments"]) == 1
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    told = [(event["step"], event["loss"]) for event in map(json.loads, lines) if "loss" in event]
    assert board.series("loss") == told

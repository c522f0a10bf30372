"""The real client against a server that plays the cloud: well, slow, refusing, closed, dying in the middle."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from itertools import count, pairwise
from pathlib import Path

import pytest

from longline import Plugin, PluginConfig, Table, hookimpl
from longline.plugins import LoadedPlugin
from longline.testing import at_step
from longline_swanlab.config import SwanLabConfig
from longline_swanlab.plugin import SwanLabPlugin

KEY = "k3y-of-the-account-0123456789"
OTHER_SECRET = "s3cr3t-of-another-plugin"
NUMBERS = count()
SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


@pytest.fixture
def swanlab(cloud, tmp_path):
    def make(**options) -> LoadedPlugin:
        given = {"project": "fish", "api_host": cloud.url, "api_key": KEY, "log_dir": tmp_path / "log", "timeout": 2, **options}
        return LoadedPlugin.of(
            SwanLabPlugin(SwanLabConfig(**{name: value for name, value in given.items() if value})), "swanlab"
        )

    return make


class Clock(Plugin):
    """Takes the time of every step."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.times: list[float] = []

    @hookimpl
    def on_step_end(self):
        self.times.append(time.perf_counter())

    @property
    def longest(self) -> float:
        return max(after - before for before, after in pairwise(self.times))


def logged(outcome, name: str) -> list[tuple[int, float]]:
    return [(event["step"], event[name]) for event in outcome.log if name in event]


def table(run, step):
    rows = (("How many hooks?", "Seven", 1.5, f"it is {OTHER_SECRET}"), ("Which bait?", "Squid", -0.25, "no"))
    run.hook.on_table(run=run, table=Table("completions", ("prompt", "completion", "reward", "note"), rows, step))


def interrupt(run, step):
    signal.raise_signal(signal.SIGINT)


# --- all is well ----------------------------------------------------------------------------------------------------------------


def test_what_the_cloud_gets(cloud, swanlab, run_longline, capsys):
    outcome = run_longline(
        plugins=[
            swanlab(tags=["one", "two"], group="g", job_type="sft", description="d", workspace="me", experiment_name="cast"),
            at_step(2, table),
            at_step(3, lambda run, step: run.alert("the net", "is torn")),
        ]
    )
    [experiment] = cloud.experiments.values()
    assert (experiment["name"], experiment["description"], experiment["cluster"], experiment["job"]) == (
        "cast",
        "d",
        "g",
        "sft",
    )
    assert experiment["labels"] == [{"name": "one"}, {"name": "two"}]
    for name in ("loss", "learning_rate", "grad_norm", "train_loss"):
        assert cloud.series(name) == logged(outcome, name)
    assert cloud.profile["config"]["trainer"]["value"]["max_steps"] == 5
    assert cloud.profile["config"]["longline"]["value"]["run"] == outcome.manifest["id"]
    [(step, drawn)] = cloud.tables("completions")
    assert step == 2
    assert drawn["_swanLab"] == "table"
    assert [column["field"] for column in drawn["colDefs"]] == ["prompt", "completion", "reward", "note"]
    assert drawn["rowData"][1] == {"prompt": "Which bait?", "completion": "Squid", "reward": -0.25, "note": "no"}
    assert cloud.texts("alerts") == [("warning · the net · step 3", "is torn")]
    assert cloud.states == ["FINISHED"]
    assert cloud.logs == []  # the terminal is not sent
    told = capsys.readouterr().out
    assert f"swanlab: fish / cast: {cloud.url}/@me/fish/runs/{experiment['cuid']}" in told
    assert "not complete" not in told


@pytest.mark.parametrize("how", ["crashed", "aborted"])
def test_how_a_run_ended(cloud, swanlab, run_longline, how):
    class Breaks(Plugin):
        @hookimpl
        def pre_optimizer_step(self, step):
            if step == 3:
                raise ValueError(f"the line broke near {OTHER_SECRET}")

    if how == "aborted":
        run_longline(plugins=[swanlab(), at_step(3, interrupt)])
    else:
        with pytest.raises(Exception, match="the line broke"):
            run_longline(plugins=[swanlab(), Breaks(PluginConfig()), at_step(1, lambda run, step: run.hide(OTHER_SECRET))])
    assert cloud.states == [how.upper()]
    words = {"crashed": "the line broke near **********", "aborted": "stopped by a signal after step 3"}
    assert any(words[how] in line for line in cloud.logs)


def test_the_model_is_uploaded_if_that_is_wanted(cloud, swanlab, run_longline):
    outcome = run_longline(plugins=[swanlab(log_model=True)], trainer={"max_steps": 1})
    assert cloud.files["model/config.json"] == (outcome.output_dir / "model" / "config.json").read_bytes()
    assert cloud.files["model/model.safetensors"] == (outcome.output_dir / "model" / "model.safetensors").read_bytes()


def test_a_model_that_is_too_large_is_told(cloud, swanlab, run_longline, capsys, monkeypatch):
    monkeypatch.setenv("SWANLAB_CORE_SAVE_SIZE", "100000")  # bytes of a file, as swanlab reads it
    run_longline(plugins=[swanlab(log_model=True)], trainer={"max_steps": 1})
    assert "model/config.json" in cloud.files
    told = capsys.readouterr().out
    assert "SwanLab is not complete: once it could not do what it was told: " in told
    assert "Save file exceeds size limit" in told


# --- secrets --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["option", "variable", "login"])
def test_no_file_and_no_body_holds_a_secret(cloud, swanlab, run_longline, tmp_path, monkeypatch, where):
    """The key goes into the header of one request, and nowhere else; also with the switch that makes swanlab write its login."""
    monkeypatch.setenv("SWANLAB_DEBUG", "true")
    if where == "variable":
        monkeypatch.setenv("SWANLAB_API_KEY", KEY)
    if where == "login":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / ".netrc").write_text(f"machine {cloud.url}\n login {cloud.url}\n password {KEY}\n")
    given = [f"--set=plugins.swanlab.api_key={KEY}"] if where == "option" else []
    monkeypatch.setattr(sys, "argv", ["longline", "train", *given, f"--set=x={OTHER_SECRET}"])
    hide = LoadedPlugin.of(Hides(PluginConfig()), "hides")
    run_longline(plugins=[hide, swanlab(api_key=KEY if where == "option" else None), at_step(2, table), at_step(4, interrupt)])
    assert cloud.states == ["ABORTED"]
    assert [headers.get("authorization") for headers in cloud.headers].count(KEY) == 2  # ours, and that of swanlab
    assert all(KEY.encode() not in body and OTHER_SECRET.encode() not in body for body in cloud.bodies)
    assert cloud.tables("completions")[0][1]["rowData"][0]["note"] == "it is **********"
    assert "--set=x=**********" in cloud.profile["config"]["longline"]["value"]["command"]
    assert "--set=x=**********" in cloud.profile["metadata"]["runtime"]["command"]
    files = [path for folder in ("run", "log") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(files) > 10
    holders = [path for path in files if KEY.encode() in path.read_bytes() or OTHER_SECRET.encode() in path.read_bytes()]
    assert holders == []


class Hides(Plugin):
    """Another plugin with a secret of its own."""

    @hookimpl
    def on_run_start(self, run):
        run.hide(OTHER_SECRET)


@pytest.mark.parametrize("remote", ["https://me:t0ken-of-git@example.org/a.git", "https://example.org/a.git"])
def test_a_token_in_the_url_of_git_is_not_sent(cloud, swanlab, run_longline, tmp_path, remote):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
    run_longline(plugins=[swanlab()], trainer={"max_steps": 1})
    sent = json.dumps(cloud.profile["metadata"])
    assert "t0ken-of-git" not in sent
    assert ("example.org" in sent) is ("@" not in remote)


# --- no key, a wrong one, a wrong server ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_ends_the_run_before_any_work(cloud, swanlab, run_longline, tmp_path, status):
    cloud.login = status
    with pytest.raises(Exception, match=f"refuses the key: HTTP {status}") as caught:
        run_longline(plugins=[swanlab()])
    for remedy in ("export SWANLAB_API_KEY", "api_key:", "swanlab login", "mode: local"):
        assert remedy in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "cache").exists()  # no data was read
    assert not cloud.experiments


def test_a_key_for_another_server_is_not_sent(cloud, swanlab, run_longline, tmp_path):
    """A login is stored for one server; the option names another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text(f"machine https://api.swanlab.cn\n login https://swanlab.cn\n password {KEY}\n")
    with pytest.raises(Exception, match="there is none: no option api_key") as caught:
        run_longline(plugins=[swanlab(api_key=None)])
    assert "swanlab login" in str(caught.value)
    assert cloud.requests == []


def test_a_server_that_is_not_swanlab(cloud, swanlab, run_longline):
    cloud.login = 404
    with pytest.raises(Exception, match="HTTP 404"):
        run_longline(plugins=[swanlab()])


# --- no server ------------------------------------------------------------------------------------------------------------------


def until(true) -> None:
    """Wait until something holds, and a moment more for who has to be told of it."""
    end = time.monotonic() + 30
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()
    time.sleep(0.5)


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("how", ["closed", "silent", "broken"])
def test_a_server_that_cannot_be_reached(cloud, swanlab, run_longline, tmp_path, capsys, how):
    """Training goes on at full speed, everything is kept, and the command that is named brings all of it to the server later."""
    cloud.login = {"closed": 200, "silent": 0, "broken": 502}[how]
    clock = Clock()
    host = dead_url() if how == "closed" else cloud.url
    begin = time.monotonic()
    outcome = run_longline(plugins=[swanlab(api_host=host), clock, at_step(2, table)])
    assert time.monotonic() - begin < 40
    assert clock.longest < 1.5
    assert outcome.result.status == "completed"
    assert len(logged(outcome, "loss")) == 5
    told = capsys.readouterr().out
    assert told.count("cannot be reached") == 1
    assert "SwanLab is not complete" in told
    command = told.split("upload the run: ")[1].splitlines()[0].split()
    assert command[:2] == ["swanlab", "sync"]
    cloud.login = 200
    sync(command, cloud)
    assert cloud.series("loss") == logged(outcome, "loss")
    assert cloud.tables("completions")[0][1]["rowData"][0]["completion"] == "Seven"
    assert list(cloud.experiments) == [json.loads((tmp_path / "run" / "swanlab.json").read_text())["id"]]


def sync(command: list[str], cloud) -> None:
    """Run a command that the plugin told."""
    program = str(Path(sys.executable).with_name("swanlab"))
    done = subprocess.run(
        [program, *command[1:], "--host", cloud.url, "--api-key", KEY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("status", "words"), [(401, "refused"), (503, "had not arrived"), (0, "had not arrived")])
def test_a_server_that_stops_in_the_middle(cloud, swanlab, run_longline, capsys, monkeypatch, status, words):
    """Refused, out of order, or silent: no step waits, the log is complete, the end says what is missing and how to bring it."""
    monkeypatch.setenv("SWANLAB_CORE_RECORD_INTERVAL", "0.2")  # seconds between uploads, as swanlab reads it
    cloud.upload, cloud.fails_after = status, 1
    clock = Clock()
    waits = [  # so that uploads fall between the steps
        at_step(3, lambda run, step: until(lambda: cloud.metrics)),
        at_step(5, lambda run, step: until(lambda: cloud.failures)),
    ]
    outcome = run_longline(plugins=[swanlab(), *waits, clock, at_step(6, table)], trainer={"max_steps": 8})
    assert outcome.result.status == "completed"
    assert sorted(after - before for before, after in pairwise(clock.times))[-3] < 1.5
    assert len(logged(outcome, "loss")) == 8
    assert 0 < len(cloud.series("loss")) < 8
    told = capsys.readouterr().out
    assert "SwanLab is not complete" in told
    assert words in told
    assert "log.jsonl is complete" in told
    if status == 401:
        assert "SwanLab refuses what it is sent: HTTP 401" in told
    missing = [word for word in told.split("SwanLab is not complete")[1].split() if word.isdigit()]
    assert int(missing[0]) > 0
    command = told.split("upload what is missing: ")[1].splitlines()[0].split()
    cloud.upload = 200
    cloud.release.set()
    sync(command, cloud)
    assert dict(cloud.series("loss")) == dict(logged(outcome, "loss"))
    assert len(cloud.experiments) == 1


def test_a_recorder_that_is_killed_is_told_and_training_goes_on(cloud, swanlab, run_longline, capsys):
    def kill(run, step):
        import psutil

        [recorder] = [
            child for child in psutil.Process().children() if "longline_swanlab.recorder" in " ".join(child.cmdline())
        ]
        recorder.kill()
        time.sleep(0.5)

    outcome = run_longline(plugins=[swanlab(), at_step(2, kill)])
    assert outcome.result.status == "completed"
    assert len(logged(outcome, "loss")) == 5
    told = capsys.readouterr().out
    assert "the process that talks to SwanLab ended: exit status -9" in told
    assert "events were dropped on this machine" in told


# --- going on -------------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_in_the_same_experiment(cloud, swanlab, run_longline):
    run_longline(plugins=[swanlab(), at_step(3, interrupt), at_step(2, table)], trainer=SAVES)
    outcome = run_longline(plugins=[swanlab(), at_step(5, table)], trainer=SAVES, resume="last")
    assert len(cloud.experiments) == 1
    assert cloud.states == ["ABORTED", "FINISHED"]
    assert cloud.series("loss") == logged(outcome, "loss")
    assert [step for step, _ in cloud.tables("completions")] == [2, 5]


def test_an_experiment_that_is_gone(cloud, swanlab, run_longline):
    run_longline(plugins=[swanlab(), at_step(3, interrupt)], trainer=SAVES)
    cloud.experiments.clear()
    with pytest.raises(Exception, match="does not exist in project"):
        run_longline(plugins=[swanlab(resume="must")], trainer=SAVES, resume="last")


def test_offline_parts_become_one_experiment(cloud, swanlab, run_longline, capsys):
    """Mode offline keeps the id, and the commands that it tells bring both parts together."""
    run_longline(plugins=[swanlab(mode="offline", api_key=None), at_step(3, interrupt)], trainer=SAVES)
    outcome = run_longline(plugins=[swanlab(mode="offline", api_key=None)], trainer=SAVES, resume="last")
    assert cloud.requests == []
    told = capsys.readouterr().out.splitlines()
    commands = dict.fromkeys(line.split(": ", 2)[2] for line in told if line.startswith("swanlab: "))
    assert len(commands) == 2
    for command in commands:
        sync(command.split(), cloud)
    assert len(cloud.experiments) == 1
    assert dict(cloud.series("loss")) == dict(logged(outcome, "loss"))
    assert len(cloud.series("loss")) == 6


def test_a_part_that_was_kept_comes_to_the_rest(cloud, swanlab, run_longline, capsys):
    """No server at first, then one: a run that was resumed names the command for what it lacks."""
    run_longline(plugins=[swanlab(api_host=dead_url()), at_step(3, interrupt)], trainer=SAVES)
    outcome = run_longline(plugins=[swanlab()], trainer=SAVES, resume="last")
    assert [step for step, _ in cloud.series("loss")] == [4, 5, 6]
    told = capsys.readouterr().out.split("on this machine alone; upload it: ")[1].splitlines()[0]
    sync(told.split(), cloud)
    assert dict(cloud.series("loss")) == dict(logged(outcome, "loss"))
    assert len(cloud.experiments) == 1


def test_an_id_that_was_chosen(cloud, swanlab, run_longline):
    run_longline(plugins=[swanlab(id="mine")], trainer={"max_steps": 1})
    assert list(cloud.experiments) == ["mine"]

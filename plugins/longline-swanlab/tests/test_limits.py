"""Real runs at the edges: a full disk, tables larger than training itself, names and values that SwanLab has no room for."""

from __future__ import annotations

import math
import re
import resource
import time
from itertools import count

import psutil
import pytest

from longline import Plugin, PluginConfig, Table, hookimpl
from longline.plugins import LoadedPlugin
from longline_swanlab.config import SwanLabConfig
from longline_swanlab.plugin import SwanLabPlugin

KEY = "k3y-of-the-account-0123456789"
NUMBERS = count()


@pytest.fixture
def swanlab(cloud, tmp_path):
    def make(mode: str, **options) -> LoadedPlugin:
        entry = {"api_host": cloud.url, "api_key": KEY} if mode == "online" else {}
        given = {"project": "fish", "mode": mode, "log_dir": tmp_path / "log", **entry, **options}
        return LoadedPlugin.of(SwanLabPlugin(SwanLabConfig(**given)), "swanlab")

    return make


class Acts(Plugin):
    """Does something at the end of every step."""

    def __init__(self, what) -> None:
        super().__init__(PluginConfig())
        self.what = what

    @hookimpl
    def on_step_end(self, run, step):
        self.what(run, step)


def each_step(what) -> LoadedPlugin:
    return LoadedPlugin.of(Acts(what), f"acts-{next(NUMBERS)}")


def logged(outcome, name: str) -> list[tuple[int, float]]:
    return [(event["step"], event[name]) for event in outcome.log if name in event]


def recorder() -> psutil.Process:
    [found] = [child for child in psutil.Process().children() if "longline_swanlab.recorder" in " ".join(child.cmdline())]
    return found


# --- a full disk ----------------------------------------------------------------------------------------------------------------


class Measures(Plugin):
    """Adds as many metrics as do not fit into a buffer."""

    @hookimpl
    def pre_log(self, logs):
        logs.update({f"layer-{index}": 0.5 for index in range(300)})


@pytest.mark.parametrize("mode", ["local", "offline", "online"])
def test_a_full_disk_is_an_alert_at_once_and_in_the_summary(cloud, swanlab, run_longline, capsys, mode):
    """What a file may hold is limited for SwanLab's process alone, in the middle of the run. A server gets all there is."""
    told: list[str] = []

    def fill(run, step):
        told.append(capsys.readouterr().out)
        if step == 2:
            limit = resource.RLIMIT_FSIZE
            resource.prlimit(recorder().pid, limit, (1, resource.prlimit(recorder().pid, limit)[1]))
        time.sleep(0.4)

    plugins = [swanlab(mode, timeout=2), Measures(PluginConfig()), each_step(fill)]
    outcome = run_longline(plugins=plugins, trainer={"max_steps": 6})
    assert outcome.result.status == "completed"
    assert len(logged(outcome, "loss")) == 6
    assert "SwanLab cannot do what it is told: " in "".join(told[2:])
    assert re.search("File too large|disk I/O error", "".join(told[2:]))  # the second is SQLite's word for it
    end = capsys.readouterr().out
    assert re.search(r"SwanLab is not complete: (once|\d+ times) it could not do what it was told(, first)?: ", end)
    assert "SwanLab is not complete" in end.partition("told above")[2]
    assert "log.jsonl is complete" in end
    if mode == "online":
        assert cloud.series("loss") == logged(outcome, "loss")
        assert cloud.states == ["FINISHED"]


# --- tables ---------------------------------------------------------------------------------------------------------------------

COLLAPSED = tuple(("How many hooks?", "a" * 10_000, 0.5) for _ in range(32))
"""What a model says that repeats one letter."""


def tell(run, step, name="completions"):
    run.hook.on_table(run=run, table=Table(name, ("prompt", "completion", "reward"), COLLAPSED, step))


@pytest.mark.parametrize("mode", ["local", "online"])
def test_a_large_table_at_every_step(cloud, swanlab, run_longline, watch, tmp_path, capsys, mode):
    outcome = run_longline(plugins=[swanlab(mode), each_step(tell)], trainer={"max_steps": 12})
    assert "not complete" not in capsys.readouterr().out
    if mode == "local":
        board = watch(tmp_path / "log")
        assert board.series("loss") == logged(outcome, "loss")
        assert [text for _, _, text in board.texts("completions")][-1].endswith("a" * 10_000)
        assert len(board.texts("completions")) == 12 * len(COLLAPSED)
        assert board.get("project")["experiments"][0]["status"] == 1
    else:
        assert cloud.series("loss") == logged(outcome, "loss")
        assert [step for step, _ in cloud.tables("completions")] == list(range(1, 13))
        assert cloud.states == ["FINISHED"]


def test_metrics_do_not_wait_behind_tables(cloud, swanlab, run_longline, monkeypatch):
    """The loss that is logged after a hundred large tables is in SwanLab before most of them."""
    monkeypatch.setenv("SWANLAB_CORE_RECORD_INTERVAL", "0.2")  # seconds between uploads, as swanlab reads it
    there: list[int] = []

    def act(run, step):
        if step == 1:
            for number in range(100):
                tell(run, step, f"table-{number}")
        elif step == 2:
            end = time.monotonic() + 30
            while not cloud.series("loss") and time.monotonic() < end:
                time.sleep(0.02)
            there.append(len(cloud.media))

    outcome = run_longline(plugins=[swanlab("online"), each_step(act)], trainer={"max_steps": 2})
    assert there[0] < 30
    assert cloud.series("loss") == logged(outcome, "loss")
    assert len(cloud.media) == 100


# --- names and values -----------------------------------------------------------------------------------------------------------

NAMES = {
    "/loss": '"/loss"',
    "loss ": '"loss "',
    ".dot": '".dot"',
    "": '""',
    "__swanlab__.x": '"__swanlab__.x"',
    "a\nb": "a\\nb",
    "a\\nb": "a\\nb (2)",
    "a\tb": "a\\tb",
    "a/../b": "a/../b",
    "x" * 600: "x" * 480 + " …",
    "x" * 601: "x" * 480 + " … (2)",
    "損失": "損失",
    "\ud800": "\\ud800",
    "\x1b[31mred": "\\x1b[31mred",
    "alerts": "alerts (2)",
}
"""Names of metrics that a plugin may choose, and where they are drawn."""


class Odd(Plugin):
    """Adds a metric under each name with a value of its own, and two that are infinite."""

    @hookimpl
    def pre_log(self, logs, step):
        logs.update({name: float(index) for index, name in enumerate(NAMES)})
        if step == 2:
            logs.update(up=math.inf, down=-math.inf)


@pytest.mark.parametrize("mode", ["local", "online"])
def test_no_name_is_dropped_and_no_two_are_one(cloud, swanlab, run_longline, watch, tmp_path, mode):
    like_a_metric = each_step(lambda run, step: tell(run, step, "loss"))
    odd = LoadedPlugin.of(Odd(PluginConfig()), "odd")
    outcome = run_longline(plugins=[swanlab(mode), odd, like_a_metric], trainer={"max_steps": 2})
    board = watch(tmp_path / "log") if mode == "local" else cloud
    for index, key in enumerate(NAMES.values()):
        assert board.series(key) == [(1, index), (2, index)], key
    assert board.series("loss") == logged(outcome, "loss")
    shown = board.charts() if mode == "local" else {item["key"] for item in cloud.media}
    assert "loss (2)" in shown  # the table
    because = (
        "the local dashboard cannot draw that" if mode == "local" else "SwanLab has no infinity and draws NaN in its place"
    )
    alerts = [alert[-1] for alert in board.texts("alerts")]
    assert [alert.partition(";")[0] for alert in alerts] == ["down is -inf at step 2", "up is inf at step 2"]
    assert because in alerts[0]

"""Real training of a preference method, two rows a step: done, failed, stopped, killed, and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.plugins import HookError, LoadedPlugin
from longline.testing import HookRecorder, fail_at
from longline_completions.config import CompletionsConfig
from longline_completions.plugin import CompletionsPlugin


def tables(folder: Path) -> dict[str, list[int]]:
    """The steps of the rows in each file."""
    found = sorted((folder / "completions").glob("step-*.parquet"))
    return {path.name: pq.read_table(path)["step"].to_pylist() for path in found}


def plugin(**options) -> LoadedPlugin:
    return LoadedPlugin.of(CompletionsPlugin(CompletionsConfig(**options)), "completions")


@pytest.fixture
def dpo(preference_rows) -> dict:
    """What a config says to train a preference method."""
    return {"method": "dpo", "data": {"train": [{"path": str(preference_rows)}]}}


class Fail(Plugin):
    """Raises where that stops a run, in the middle of a step."""

    def __init__(self, step: int) -> None:
        super().__init__(PluginConfig())
        self.step = step

    @hookimpl
    def pre_optimizer_step(self, step):
        if step == self.step:
            raise RuntimeError("the cable broke")


# --- how a run ends -------------------------------------------------------------------------------------------------------------


def test_a_run_that_completes(run_longline, kit, dpo):
    shown = kit.Shown()
    outcome = run_longline(plugins=[shown, plugin(every=2)], **dpo)
    assert outcome.result.status == "completed"
    assert tables(outcome.output_dir) == {
        "step-000002.parquet": [1, 1, 2, 2],
        "step-000004.parquet": [3, 3, 4, 4],
        "step-000005.parquet": [5, 5],
    }
    assert shown.steps() == list(tables(outcome.output_dir).values())
    assert len(outcome.hooks("on_table")) == 3
    assert outcome.manifest["hooks"]["plugins"]["completions"]["on_completions"]["calls"] == 5


def test_a_run_that_crashes(run_longline, kit, dpo, tmp_path):
    """The tracker stands before the plugin and is closed in on_run_end: it must have had the table by then."""
    shown = kit.Shown()
    recorder = HookRecorder()
    with pytest.raises(HookError, match="the cable broke"):
        run_longline(plugins=[shown, plugin(), Fail(4)], recorder=recorder, **dpo)
    assert tables(tmp_path / "run") == {"step-000003.parquet": [1, 1, 2, 2, 3, 3]}
    assert shown.steps() == [[1, 1, 2, 2, 3, 3]]
    names = [call.partition("(")[0] for call in recorder.calls]
    assert names.index("on_table") < names.index("on_run_end")
    assert names.count("on_table") == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped(run_longline, kit, dpo, signum):
    shown = kit.Shown()
    outcome = run_longline(plugins=[shown, plugin(), fail_at("on_step_end", 3, signum.name)], **dpo)
    assert outcome.result.exit_code == 128 + signum
    assert tables(outcome.output_dir) == {"step-000003.parquet": [1, 1, 2, 2, 3, 3]}
    assert shown.steps() == [[1, 1, 2, 2, 3, 3]]
    assert not list((outcome.output_dir / "completions").glob(".*"))


def test_a_full_disk_does_not_touch_the_run(run_longline, kit, dpo):
    class InTheWay(Plugin):
        @hookimpl
        def on_run_start(self, run):
            (run.output_dir / "completions").write_text("")

    shown = kit.Shown()
    outcome = run_longline(plugins=[InTheWay(PluginConfig()), plugin(every=2), shown], **dpo)
    assert outcome.result.status == "completed"
    assert len(shown.tables) == 3
    assert any("completions are not kept on disk" in alert for alert in shown.alerts)


# --- going on -------------------------------------------------------------------------------------------------------------------

SAVING = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}


def all_steps(folder: Path) -> list[int]:
    return sorted(step for rows in tables(folder).values() for step in rows)


def test_after_a_stop_it_goes_on_and_each_row_is_there_once(run_longline, run_config, kit, dpo):
    config = run_config(trainer=SAVING, **dpo)
    run_longline(config, plugins=[plugin(every=4), fail_at("on_step_end", 6, "SIGINT")])
    shown = kit.Shown()
    outcome = run_longline(config, plugins=[plugin(every=4), shown], resume="last")
    assert list(tables(outcome.output_dir)) == ["step-000004.parquet", "step-000006.parquet", "step-000008.parquet"]
    assert all_steps(outcome.output_dir) == sorted([*range(1, 9)] * 2)
    assert shown.steps() == [[7, 7, 8, 8]]


def test_after_a_crash_steps_are_made_again_and_none_is_lost(run_longline, run_config, kit, dpo, tmp_path):
    """The checkpoint is of step 3, tables came at 2, 4 and 5: rows of step 3 are in a table that is made anew."""
    config = run_config(trainer=SAVING, **dpo)
    with pytest.raises(HookError):
        run_longline(config, plugins=[plugin(every=2), Fail(6)])
    assert list(tables(tmp_path / "run")) == ["step-000002.parquet", "step-000004.parquet", "step-000005.parquet"]
    shown = kit.Shown()
    outcome = run_longline(config, plugins=[plugin(every=2), shown], resume="last")
    assert shown.steps() == [[3] * 2, [4] * 2, [5] * 2 + [6] * 2, [7] * 2 + [8] * 2], (
        "what is left of a table that was shown too"
    )
    assert tables(outcome.output_dir) == {
        "step-000002.parquet": [1] * 2 + [2] * 2,
        "step-000003.parquet": [3] * 2,
        "step-000004.parquet": [4] * 2,
        "step-000006.parquet": [5] * 2 + [6] * 2,
        "step-000008.parquet": [7] * 2 + [8] * 2,
    }
    whole = run_longline(plugins=[plugin(every=8)], trainer=SAVING, output_dir=str(tmp_path / "whole"), **dpo)
    expected, found = (pd.read_parquet(run.output_dir / "completions") for run in (whole, outcome))
    assert found.equals(expected), "the rows of a run that nothing stopped"


KILLED = """
import os, signal, sys
from pathlib import Path
from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train

class At(Plugin):
    @hookimpl
    def on_step_end(self, step):
        if step == int(sys.argv[2]):
            print("here", flush=True)
            if sys.argv[3] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)

train(load_config(Path(sys.argv[1])), plugins=[LoadedPlugin.of(At(PluginConfig()))])
"""


def test_after_a_kill_the_checkpoint_has_all_rows_up_to_it(run_longline, run_config, kit, dpo, tmp_path):
    config = run_config(trainer=SAVING, plugins={"completions": {"every": 100}}, **dpo)
    done = subprocess.run([sys.executable, "-c", KILLED, str(config), "5", "kill"], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert tables(tmp_path / "run") == {}, "no table was due"
    shown = kit.Shown()
    outcome = run_longline(config, plugins=[shown], resume="last")
    steps = [sorted([*range(1, 4)] * 2), sorted([*range(4, 9)] * 2)]
    assert tables(outcome.output_dir) == {"step-000003.parquet": steps[0], "step-000008.parquet": steps[1]}
    assert shown.steps() == steps, "what nobody was shown before the kill is shown"


def test_a_real_signal_to_a_real_process(run_config, dpo, tmp_path):
    config = run_config(trainer={"max_steps": 100_000}, plugins={"completions": {"every": 1_000_000}}, **dpo)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(config), "4", "go on"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "here\n":
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["status"] == "interrupted"
    last = manifest["summary"]["steps"]
    (steps,) = tables(tmp_path / "run").values()
    assert steps[-1] == last >= 4
    assert steps == sorted([*range(1, last + 1)] * 2)[-128:]


def test_overwrite_deletes_the_tables_of_the_run_before(run_longline, dpo):
    run_longline(plugins=[plugin(every=1)], **dpo)
    outcome = run_longline(plugins=[plugin(every=2)], trainer={"max_steps": 2}, overwrite=True, **dpo)
    assert list(tables(outcome.output_dir)) == ["step-000002.parquet"]


# --- through the command line ---------------------------------------------------------------------------------------------------


def test_from_the_config_with_the_real_entry_point(run_config, dpo, tmp_path, capsys):
    options = {"every": 2, "sample": "worst", "max_bytes": "1MiB"}
    config = run_config(plugins={"completions": options}, trainer={"max_steps": 2}, **dpo)
    assert run_cli(["train", str(config)]) == 0
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {"name": "completions", "distribution": "longline-completions", "version": "0.1.0"} in manifest["plugins"]
    assert run_cli(["train", str(tmp_path / "run" / "config.yaml"), "--overwrite"]) == 0, "the saved config repeats the run"
    assert run_cli(["completions", str(tmp_path / "run")]) == 0


def test_a_run_that_compares_nothing_has_none(run_longline, tmp_path, capsys):
    run_longline(trainer={"max_steps": 1})
    assert run_cli(["completions", str(tmp_path / "run")]) == 2
    assert "has no completions: method sft compares none" in capsys.readouterr().err

"""What a plugin's author did wrong is told with the author's line, what to do, and once."""

from __future__ import annotations

import importlib
import sys

import pytest

from longline.testing import MemoryTracker

AUTHORED = """
import threading, time
from longline import Alert, LonglineError, Plugin, hookimpl

class IdlePlugin(Plugin):
    def on_logs(self, logs): ...

class LouderPlugin(Plugin):
    @hookimpl
    def on_step_end(self, run, step):
        run.hook.on_alert(run=run, alert=Alert("tide", level="critical"))

class HintedPlugin(Plugin):
    @hookimpl
    def on_step_end(self):
        raise LonglineError("the tide is out", hint="wait six hours")

class StopsPlugin(Plugin):
    @hookimpl
    def on_step_end(self, step):
        if step == 2:
            raise KeyboardInterrupt

class ClutchesPlugin(Plugin):
    def check(self, config, plan):
        threading.Thread(target=self.wait, name="the-anchor").start()
        return ()

    def wait(self):
        time.sleep(5)
"""


@pytest.fixture
def authored(tmp_path, monkeypatch):
    (tmp_path / "authored.py").write_text(AUTHORED)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("authored")
    del sys.modules["authored"]


def place(text: str) -> str:
    """The place in the module where a text stands."""
    number = next(number for number, line in enumerate(AUTHORED.splitlines(), start=1) if text in line)
    return f"authored.py:{number}"


def test_a_contained_error_keeps_its_hint_and_the_authors_line(authored, run_longline):
    tracker = MemoryTracker()
    outcome = run_longline(plugins=[authored.LouderPlugin, authored.HintedPlugin, tracker], trainer={"max_steps": 1})
    folder = outcome.output_dir.parent
    louder, hinted = (alert.text for alert in tracker.alerts)
    assert f"the levels are info, warning, error ({folder}/{place('critical')}); training" in louder
    end = "training goes on, later failures of this hook are only counted; hint: wait six hours"
    assert hinted.endswith(f"LonglineError: the tide is out ({folder}/{place('six hours')}); {end}")
    assert hinted.count("wait six hours") == 1


def test_a_plugin_that_does_nothing_is_told(authored, run_command, run_config):
    plugins = {"idle": authored.IdlePlugin, "stops": authored.StopsPlugin}
    ended = run_command("check", run_config(plugins=list(plugins)), plugins=plugins)
    assert ended.code == 0
    assert "plugin 'idle' (longline_test_idle 0) does nothing: it answers no hook; @hookimpl marks a method" in ended.err
    assert "'stops'" not in ended.err


def test_a_keyboard_interrupt_of_a_plugin_interrupts(authored, run_longline):
    outcome = run_longline(plugins=[authored.StopsPlugin])
    assert (outcome.result.status, outcome.result.exit_code, outcome.result.summary.steps) == ("interrupted", 130, 2)


def test_a_thread_that_holds_a_finished_process_is_named(authored, run_command, run_config):
    ended = run_command("check", run_config(plugins=["clutches"]), plugins={"clutches": authored.ClutchesPlugin})
    assert ended.code == 0
    told = "the command is done; the process waits for the thread 'the-anchor', which is at "
    assert f"warning: {told}{authored.__file__}" in ended.err, ended.err
    assert f"{place('time.sleep')}: whoever started it should end it, or make it a daemon" in ended.err
    ended = run_command("check", run_config())
    assert ended.err == ""

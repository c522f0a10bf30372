"""Hooks that do not return: told while they hang, with their place, and with the total at the end."""

import json
import logging
import threading
import time

import pytest

from longline import ConfigError, Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import Bus, LoadedPlugin
from longline.plugins.watch import Watch, watching


class Main:
    """As much of a run as a hook of the main rank needs."""

    is_main = True


class Slow(Plugin):
    """Sleeps in its first steps."""

    naps = 2

    @hookimpl
    def on_step_end(self, step):
        if step <= self.naps:
            self.nap()

    def nap(self):
        time.sleep(0.6)


def test_a_hook_that_hangs_is_told_once_while_it_hangs_and_in_total_at_the_end(run_longline, caplog, capsys):
    with caplog.at_level(logging.WARNING, "longline.plugins"):
        outcome = run_longline(plugins=[LoadedPlugin.of(Slow(PluginConfig()), slow_after=0.2)], trainer={"max_steps": 3})
    [record] = [record for record in caplog.records if "the run waits" in record.message]
    assert "plugin 'slow' has been in on_step_end for" in record.message
    assert "test_slow_plugins.py" in record.message
    assert "in nap" in record.message
    assert outcome.hooks("on_alert") == ["on_alert(alert=warning: a slow plugin)"]
    assert "a slow plugin: plugin 'slow' took 1 s in 3 calls of on_step_end" in capsys.readouterr().out
    assert outcome.result.status == "completed"


def test_what_is_there_to_take_long_is_not_told(run_longline, caplog):
    class Thorough(Slow):
        naps = 0

        @hookimpl
        def on_trained(self):
            self.nap()

    with caplog.at_level(logging.WARNING, "longline.plugins"):
        outcome = run_longline(plugins=[LoadedPlugin.of(Thorough(PluginConfig()), slow_after=0.1)], trainer={"max_steps": 1})
    assert outcome.manifest["hooks"]["plugins"]["thorough"]["on_trained"]["seconds"] > 0.5
    assert not [record for record in caplog.records if "the run waits" in record.message]
    assert outcome.hooks("on_alert") == []


def test_many_quick_calls_of_one_hook_are_not_one_slow_call(run_longline, caplog):
    class Busy(Slow):
        naps = 99

        def nap(self):
            time.sleep(0.05)

    with caplog.at_level(logging.WARNING, "longline.plugins"):
        outcome = run_longline(plugins=[LoadedPlugin.of(Busy(PluginConfig()), slow_after=0.3)], trainer={"max_steps": 12})
    assert not [record for record in caplog.records if "the run waits" in record.message]
    assert outcome.hooks("on_alert") == []


def test_secrets_do_not_appear_in_the_stack(caplog):
    class Napping(Slow):
        @hookimpl
        def on_alert(self):
            time.sleep(0.4)  # hunter2

    bus = Bus([LoadedPlugin.of(Napping(PluginConfig()), slow_after=0.1)])
    with caplog.at_level(logging.WARNING), watching(bus, lambda text: text.replace("hunter2", "***")) as watch:
        bus.hook.on_alert(run=Main(), alert=None)
    assert "***" in caplog.text
    assert "hunter2" not in caplog.text
    assert [answer.hook for answer in watch.slow] == ["on_alert"]


def test_threads_that_ended_are_forgotten():
    bus = Bus([LoadedPlugin.of(Slow(PluginConfig()))])
    thread = threading.Thread(target=lambda: bus.frames.mine)
    thread.start()
    thread.join()
    assert len(bus.threads) == 2
    Watch(bus, str).look()
    assert [frame.thread for frame in bus.threads] == [threading.get_ident()]


def test_the_option_is_longlines_own(run_config):
    loaded = load_config(run_config(plugins={"profiling": {"slow_after": 5}}))
    assert (loaded.config.plugins[0].slow_after, loaded.config.plugins[0].options) == (5.0, {})
    assert json.loads(loaded.config.plugins[0].model_dump_json())["slow_after"] == 5.0


@pytest.mark.parametrize("seconds", [1e-12, 1e300])
def test_a_limit_of_any_size_is_watched(seconds):
    bus = Bus([LoadedPlugin.of(Slow(PluginConfig()), slow_after=seconds)])
    with watching(bus, str) as watch:
        bus.hook.on_step_end(run=Main(), step=1)
    assert [answer.hook for answer in watch.slow] == (["on_step_end"] if seconds < 1 else [])


@pytest.mark.parametrize("value", ["0", "-1", ".inf", ".nan", "soon"])
def test_a_limit_that_is_none_is_refused(value, run_config):
    path = run_config(plugins={"profiling": {"slow_after": "VALUE"}})
    path.write_text(path.read_text().replace("VALUE", value))
    with pytest.raises(ConfigError, match=r"plugins\.profiling\.slow_after"):
        load_config(path)

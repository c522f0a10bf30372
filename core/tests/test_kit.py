"""The test kit's runs in processes of their own, with faults, on two ranks; and its trackers, servers and checks of plugins."""

from __future__ import annotations

import base64
import gzip
import json
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from textwrap import dedent

import pytest

from longline.errors import ConfigError, PluginError
from longline.testing import (
    BROKEN,
    GARBAGE,
    SILENCE,
    TOO_MANY,
    Answer,
    MemoryTracker,
    assert_import_is_light,
    assert_no_secret,
    fail_at,
    preferences,
)

SECRET = 's3cr3t/"of a test"'
TIDE = """
    from longline import Plugin, PluginConfig, hookimpl

    class TideConfig(PluginConfig):
        every: int = 1

    class TidePlugin(Plugin):
        Config = TideConfig

        def __init__(self, config):
            super().__init__(config)
            self.mean = 0.0

        @hookimpl
        def on_log(self, run, logs, step):
            if "loss" in logs and step % self.config.every == 0:
                self.mean = 0.5 * self.mean + 0.5 * logs["loss"]
                run.alert("tide", f"{self.mean:.3f}", "info")

        def state(self):
            import torch

            return {"mean": torch.tensor(self.mean, dtype=torch.float64)}

        def restore(self, state):
            self.mean = float(state["mean"])
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module of an author and imports it."""
    import importlib
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str):
        (tmp_path / f"{name}.py").write_text(dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return write


# --- faults ---------------------------------------------------------------------------------------------------------------------


def test_a_fault_in_any_hook_stops_the_run_where_it_is(run_longline):
    for hook, n in (("on_step_end", 2), ("pre_optimizer_step", 2), ("post_model_load", 1)):
        tracker = MemoryTracker()
        with pytest.raises(PluginError, match=f"a fault that the test asked for: call {n} of {hook}"):
            run_longline(plugins=[tracker, fail_at(hook, n)], overwrite=True)
        assert tracker.status == "failed"
        assert len(tracker.logs) == (n - 1 if n == 2 else 0), hook


def test_a_signal_in_this_process(run_longline):
    outcome = run_longline(plugins=[fail_at("on_step_end", 3, "SIGINT")])
    assert (outcome.result.status, outcome.manifest["summary"]["steps"]) == ("interrupted", 3)


def test_a_fault_that_is_asked_for_wrongly_is_refused():
    with pytest.raises(ValueError, match="there is no hook 'on_stepend'; did you mean 'on_step_end'"):
        fail_at("on_stepend")


def test_faults_that_end_a_process(run_process):
    killed = run_process(plugins=[fail_at("on_step_end", 2, "SIGKILL")])
    assert killed.code == -signal.SIGKILL
    assert [event["step"] for event in killed.log] == [1]
    exited = run_process(plugins=[fail_at("on_step_end", 2, "exit")], overwrite=True)
    assert "an exit that the test asked for: call 2 of on_step_end" in exited.text
    with pytest.raises(AssertionError, match="had not ended after 15 seconds"):
        run_process(plugins=[fail_at("on_step_end", 2, "hang")], overwrite=True, timeout=15)


# --- processes ------------------------------------------------------------------------------------------------------------------


def test_a_plugin_that_is_not_packaged_by_its_entry_point(run_command, run_config, module):
    tide = module("tide_watch", TIDE)
    config = run_config(plugins=[{"tide": {"every": 2}}])
    without = run_command("check", config)
    assert (without.code, "plugin 'tide' is not installed" in without.text) == (3, True), without.text
    ended = run_command("check", config, plugins={"tide": tide.TidePlugin})
    assert ended.code == 0, ended.text
    wrong = run_command("check", run_config(plugins=[{"tide": {"evry": 2}}]), plugins={"tide": tide.TidePlugin})
    assert (wrong.code, "did you mean `every`" in wrong.text) == (2, True), wrong.text


def test_two_ranks_and_a_fault_on_one_of_them(run_process, module):
    tide = module("tide_watch", TIDE)
    plugins = [tide.TidePlugin(tide.TideConfig()), fail_at("post_optimizer_step", 2, rank=1)]
    ended = run_process(plugins=plugins, ranks=2)
    assert ended.code == 3, ended.text
    assert "a fault that the test asked for: call 2 of post_optimizer_step" in ended.text
    assert (ended.manifest["status"], ended.manifest["world_size"]) == ("failed", 2)
    assert [event["step"] for event in ended.log] == [1]
    assert ended.text.count("info (step 1): tide") == 1


# --- data, checkpoints and classes by keyword -----------------------------------------------------------------------------------


def test_rows_by_keyword(run_longline):
    outcome = run_longline(rows=6, eval_rows=4, trainer={"max_steps": 3})
    assert [source["rows"] for source in outcome.manifest["data"]["sources"]] == [6, 4]
    assert [event["step"] for event in outcome.log if "eval_loss" in event] == [2, 3]
    pairs = {"method": "dpo", "rows": preferences(6), "eval_rows": preferences(8)[6:]}
    outcome = run_longline(**pairs, trainer={"max_steps": 2}, overwrite=True)
    assert [source["rows"] for source in outcome.manifest["data"]["sources"]] == [6, 2]
    assert [event["step"] for event in outcome.log if "eval_loss" in event] == [2]


def test_a_run_goes_on_from_a_checkpoint_that_is_there(run_longline, run_process, module):
    """The plugin comes to a run that was begun without it."""
    tide = module("tide_watch", TIDE)
    outcome = run_longline(plugins=[tide.TidePlugin(tide.TideConfig())], checkpoint=3)
    assert [event["step"] for event in outcome.log if "loss" in event] == [1, 2, 3, 4, 5]
    assert outcome.hooks("on_step_end") == ["on_step_end(step=4)", "on_step_end(step=5)"]
    assert len([line for line in outcome.hooks("on_alert") if "info: tide" in line]) == 2
    ended = run_process(plugins=[tide.TidePlugin], checkpoint=4, output_dir=str(outcome.output_dir.parent / "other"))
    assert ended.code == 0, ended.text
    assert ended.text.count("): tide: ") == 1, ended.text


def test_a_class_stands_for_a_plugin_that_is_not_packaged(run_longline, module):
    tide = module("tide_watch", TIDE)
    outcome = run_longline(plugins=[{tide.TidePlugin: {"every": 2}}])
    assert outcome.manifest["plugins"][0]["name"] == "tide"
    assert outcome.hooks("on_alert") == ["on_alert(alert=info: tide)"] * 2
    with pytest.raises(ConfigError, match=r"plugins\.tide\.evry: unknown key"):
        run_longline(plugins=[{tide.TidePlugin: {"evry": 2}}], overwrite=True)


# --- resumed equals uninterrupted -----------------------------------------------------------------------------------------------


def test_a_plugin_that_keeps_its_state_goes_on_as_if_nothing_happened(assert_resume_equal, module):
    assert_resume_equal(module("tide_watch", TIDE).TidePlugin, {"every": 1}, at=2)


def test_a_plugin_that_forgets_is_found_by_its_state_and_its_metrics(assert_resume_equal, module):
    forgets = TIDE.replace('self.mean = float(state["mean"])', "pass")
    with pytest.raises(AssertionError, match=r"state tide.rank0: \{'mean': tensor\(\d"):
        assert_resume_equal(module("tide_watch", forgets).TidePlugin, at=3)
    adds = forgets.replace("def on_log(", "def pre_log(").replace("run.alert(", "logs['tide'] = self.mean; str(")
    adds = adds.replace('"tide", f"{self.mean:.3f}", "info"', "")
    with pytest.raises(AssertionError, match=r"log, step 3: tide \d\.\d+, not \d"):
        assert_resume_equal(module("tide_watch", adds).TidePlugin)


DRIFT = """
    from longline import Plugin, hookimpl

    class DriftPlugin(Plugin):
        count = 0

        @hookimpl
        def on_train_begin(self, run):
            print("drifting")
            (run.output_dir / f"drift-{run.rank}.txt").write_text("away")

        @hookimpl
        def pre_optimizer_step(self, run, trainer):
            self.count += 1 + run.rank
            next(trainer.model.parameters()).grad.mul_(self.count)

        def state(self):
            return {"count": self.count}

        def restore(self, state):
            self.count = state["count"]
"""


def test_what_only_two_ranks_show(assert_resume_equal, module):
    """The main rank's count is kept, which is all there is in one process."""
    drift = module("drift_watch", DRIFT).DriftPlugin
    assert_resume_equal(drift)
    with pytest.raises(AssertionError, match="weights: "):
        assert_resume_equal(drift, ranks=2)


# --- the checklist --------------------------------------------------------------------------------------------------------------

UNRULY = """
    import threading, time
    import numpy
    from pydantic import SecretStr
    from longline import Plugin, PluginConfig, hookimpl

    class UnrulyConfig(PluginConfig):
        key: SecretStr

    class UnrulyPlugin(Plugin):
        Config = UnrulyConfig

        def __init__(self, config):
            super().__init__(config)
            open("notes.md", "a").close()

        @hookimpl
        def on_train_begin(self, run, trainer):
            threading.Thread(target=time.sleep, args=(20,), name="unruly", daemon=True).start()
            next(trainer.model.parameters()).data.add_(0.01)
            (run.output_dir / "notes.txt").write_text(self.config.key.get_secret_value())

        @hookimpl
        def on_error(self, error):
            raise ValueError("me too")
"""


def test_a_good_plugin_is_well_behaved(assert_well_behaved, module):
    assert_well_behaved(module("tide_watch", TIDE).TidePlugin, {"every": 2}, ranks=1)


def test_a_bad_one_fails_with_a_checklist(assert_well_behaved, module):
    unruly = module("unruly", UNRULY)
    with pytest.raises(pytest.fail.Exception) as caught:
        assert_well_behaved(unruly.UnrulyPlugin, {"key": SECRET}, ranks=1)
    told = str(caught.value)
    assert told.splitlines()[0] == "UnrulyPlugin is not well behaved, 6 of its checks failed:"
    for line in (
        "ok        options      its options are taken, and one that it does not have is refused\n",
        "FAILED    import       importing it costs little\n                         importing unruly imports numpy",
        "FAILED    constructor  its constructor does no work\n",
        "ok        run          ",
        "FAILED    unchanged    as it only observes, the run is the same without it\n                         weights: 21 of 21",
        "ok        error        an error of another plugin stays that error\n",
        "after the run 'fails': the thread 'unruly'",
        "FAILED    secrets      its secrets are in no file, output or request\n                         a secret is in ",
    ):
        assert line in told, told


def test_what_cannot_be_tried_is_left_out(assert_well_behaved, module):
    unruly = module("unruly", UNRULY)
    with pytest.raises(pytest.fail.Exception) as caught:
        assert_well_behaved(unruly.UnrulyPlugin, {"kye": SECRET}, skip={"import": "a test of the kit"})
    told = str(caught.value)
    assert "FAILED    options " in told, told
    assert "\n  not tried, for options does not hold: constructor, hooks, run, others, unchanged" in told, told
    assert "left out  import       importing it costs little\n                         a test of the kit" in told, told
    with pytest.raises(ValueError, match="skip: there is no 'improt'; there are options, import"):
        assert_well_behaved(unruly.UnrulyPlugin, {"key": SECRET}, skip={"improt": "a slip"})


def test_what_an_import_may_not_bring(module):
    module("netted", "import http.client")
    assert_import_is_light("netted")
    with pytest.raises(AssertionError, match=r"^importing netted imports http.client: import them in the functions"):
        assert_import_is_light("netted", "http.client")
    with pytest.raises(AssertionError, match=r"(?s)no_such_module cannot be imported: .*ModuleNotFoundError"):
        assert_import_is_light("no_such_module")


BROKEN_RUN = """
    from longline import Plugin, hookimpl

    class LeanPlugin(Plugin):
        @hookimpl
        def on_run_start(self, run):
            self.seen = []

        @hookimpl
        def pre_optimizer_step(self, step):
            self.seen.append(step)

        @hookimpl
        def on_table(self, table):
            sum(weight for fish, weight in table.rows)

        @hookimpl
        def post_model_load(self, run):
            if run.command != "train":
                (run.output_dir / "seen.txt").write_text("evaluated")
"""


def test_hooks_that_lean_on_others_and_a_run_that_evaluation_changes(assert_well_behaved, module):
    with pytest.raises(pytest.fail.Exception) as caught:
        assert_well_behaved(module("lean", BROKEN_RUN).LeanPlugin, ranks=1)
    told = str(caught.value)
    below = "\n" + " " * 25
    for line in (
        f"neither do its hooks beside another plugin that raises events{below}on_table failed 4 times: TypeError",
        f"when its on_ hooks fail, the run completes{below}HookError: ",
        f"check, plan, evaluate and generate take it{below}evaluate or generate changed seen.txt in a finished run",
    ):
        assert line in told, told


def test_what_only_two_ranks_show_in_the_checklist(assert_well_behaved, module):
    with pytest.raises(pytest.fail.Exception) as caught:
        assert_well_behaved(module("drift_watch", DRIFT).DriftPlugin)
    told = str(caught.value)
    assert told.splitlines()[0] == "DriftPlugin is not well behaved, 2 of its checks failed:", told
    assert "FAILED    state        there, too, the run is the one without interruption" in told
    silent = told.partition("FAILED    silent")[2].split()
    assert " ".join(silent).endswith(
        "rank 1 prints 'drifting' (drift_watch.py:9) rank 1 writes whole/drift-1.txt (drift_watch.py:10) "
        "rank 1 writes parts/drift-1.txt (drift_watch.py:10) look at run.is_main first"
    ), told


# --- servers and secrets --------------------------------------------------------------------------------------------------------


def ask(url: str, content=None, timeout: float = 5):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as answer:
        return json.load(answer)


def test_a_webhook_answers_as_it_is_told(webhook):
    webhook.then(TOO_MANY, BROKEN, GARBAGE, SILENCE, Answer(content={"late": 1}, delay=0.3))
    for status in (429, 500):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(webhook.url, {"text": "caught"})
        assert caught.value.code == status
    with pytest.raises(ValueError, match=r"decode|JSON"):
        ask(webhook.url)
    with pytest.raises(OSError, match="timed out"):
        ask(webhook.url, timeout=0.3)
    begin = time.monotonic()
    assert ask(webhook.url) == {"late": 1}
    assert time.monotonic() - begin >= 0.3
    assert ask(f"{webhook.url}/hook?a=1") == {}
    first, last = webhook.requests[0], webhook.requests[-1]
    assert (first.method, first.json, last.method, last.path) == ("POST", {"text": "caught"}, "GET", "/hook?a=1")


def test_a_server_that_speaks_as_openai(openai_server):
    openai_server.say = lambda request: request["messages"][-1]["content"].upper()
    content = {"model": "m", "messages": [{"role": "user", "content": "bait"}], "n": 2}
    answer = ask(f"{openai_server.url}/v1/chat/completions", content)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["BAIT", "BAIT"]
    assert ask(f"{openai_server.url}/v1/models")["data"][0]["id"] == "tiny"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{openai_server.url}/v2")


def test_a_secret_is_found_wherever_it_is(webhook, tmp_path):
    ask(webhook.url, {"text": "nothing"})
    (tmp_path / "log.txt").write_text("nothing")
    assert_no_secret(SECRET, webhook, tmp_path, "nothing")
    ask(webhook.url, {"text": f"it is {SECRET}"})
    (tmp_path / "log.txt").write_text(json.dumps({"key": SECRET}))
    (tmp_path / "trace.gz").write_bytes(gzip.compress(base64.b64encode(SECRET.encode())))
    with pytest.raises(AssertionError) as caught:
        assert_no_secret(SECRET, webhook, tmp_path, urllib.parse.quote(SECRET, safe=""))
    told = str(caught.value)
    assert told == f"a secret is in request 2 (POST), {tmp_path / 'log.txt'}, {tmp_path / 'trace.gz'}, a text"
    with pytest.raises(ValueError, match="at least 8 characters"):
        assert_no_secret("short", tmp_path)


# --- trackers -------------------------------------------------------------------------------------------------------------------


def test_a_tracker_keeps_all_events_in_memory(run_longline):
    tracker = MemoryTracker()
    outcome = run_longline(
        plugins=[tracker], data={"eval_fraction": 0.2}, trainer={"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    )
    assert tracker.series("loss") == [(event["step"], event["loss"]) for event in outcome.log if "loss" in event]
    [(step, metrics)] = tracker.evaluations
    assert (step, "eval_loss" in metrics, tracker.status) == (2, True, "completed")

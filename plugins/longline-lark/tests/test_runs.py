"""Real runs of a tiny model: what arrives, in which order, however they end; and what they leave behind."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longline import Alert, Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
from longline.testing import at_step
from longline_lark.config import LarkConfig
from longline_lark.plugin import LarkPlugin

SECRET = "s3cr3t-of-the-bot"
TOKEN = "f00dcafe-0123-4567-89ab-token0fthebot"


def plugin(lark, **options) -> LarkPlugin:
    return LarkPlugin(LarkConfig(webhook_url=lark.url, **{"secret": SECRET, "timeout": 5, **options}))


class Breaks(Plugin):
    """Stops the run before step 3, with a secret in its words."""

    @hookimpl
    def pre_optimizer_step(self, step):
        if step == 3:
            raise ValueError(f"the line broke near {SECRET} and /hook/{TOKEN}")


def quiet(lark) -> None:
    """Everything that was asked was answered well, and everything was signed."""
    assert set(lark.codes) == {0}, lark.codes
    assert all({"timestamp", "sign"} <= set(json.loads(body)) for body in lark.bodies)


# --- how a run ends -------------------------------------------------------------------------------------------------------------


def test_a_run_that_completes(lark, run_longline):
    outcome = run_longline(plugins=[plugin(lark, project="fish", link="https://t.example/{run}")])
    quiet(lark)
    assert lark.titles == ["run: started", "run: completed"]
    start, end = lark.facts(0), lark.facts(1)
    assert (start["Run"], start["Project"], start["Status"], start["Method"], start["Steps"]) == (
        "run",
        "fish",
        "started",
        "sft",
        "5",
    )
    assert (end["Status"], end["Steps"]) == ("completed", "5")
    metrics = outcome.result.summary.metrics
    assert end["train_loss"] == f"{metrics['train_loss']:.4g}"
    assert end["loss"] == f"{metrics['loss']:.4g}"
    assert end["Duration"].endswith(" s")
    run_id = outcome.manifest["id"]
    assert run_id in lark.text()
    button = lark.cards[1]["body"]["elements"][-2]
    assert button["behaviors"][0]["default_url"] == f"https://t.example/{run_id}"


def test_a_run_that_fails_tells_the_last_lines(lark, run_longline, caplog):
    with pytest.raises(Exception, match="the line broke"):
        run_longline(plugins=[plugin(lark), Breaks(PluginConfig())])
    quiet(lark)
    assert lark.titles == ["run: started", "run: failed"]
    assert lark.facts()["Failed in"] == "train"
    assert lark.facts()["Steps"] == "2"
    told = lark.text()
    assert "stopped the run in pre_optimizer_step: ValueError: the line broke near **********" in told
    assert SECRET not in told
    assert TOKEN not in told


def test_a_bug_is_told_with_the_end_of_its_traceback(lark, run_longline):
    def explode(run, step):
        raise SystemError("deep inside a library")

    with pytest.raises(Exception, match="deep inside"):
        run_longline(plugins=[plugin(lark), at_step(3, explode, on_error="raise")])
    assert lark.titles == ["run: started", "run: failed"]
    assert "SystemError: deep inside a library" in lark.text()


def test_a_run_that_fails_before_training(lark, run_longline, tmp_path):
    rows = tmp_path / "bad.jsonl"
    rows.write_text("this is no JSON\n")
    with pytest.raises(Exception, match=r"bad\.jsonl"):
        run_longline(plugins=[plugin(lark)], data={"train": [{"path": str(rows), "format": "chat"}]})
    assert lark.titles == ["run: failed"]
    assert lark.facts()["Failed in"] == "data"
    assert "bad.jsonl:1" in lark.text()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_by_a_signal(lark, run_longline, signum):
    outcome = run_longline(plugins=[plugin(lark), at_step(3, lambda run, step: signal.raise_signal(signum))])
    assert outcome.result.status == "interrupted"
    quiet(lark)
    assert lark.titles == ["run: started", "run: interrupted"]
    assert lark.facts()["Steps"] == "3"


def test_a_resumed_run_says_so(lark, run_longline, run_config):
    save = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    stop = at_step(3, lambda run, step: signal.raise_signal(signal.SIGINT))
    run_longline(plugins=[plugin(lark), stop], trainer=save)
    run_longline(plugins=[plugin(lark), stop], trainer=save, resume="last")  # step 3 is done: it does nothing more
    assert lark.titles == ["run: started", "run: interrupted", "run: started", "run: completed"]
    assert lark.facts(2)["Steps"] == "3 of 4, resumed"


def test_a_rule_goes_on_counting_after_a_resume(lark, run_longline, run_config, tmp_path):
    """The rule is met at step 4, by events of steps 1 to 4: the resumed run sees two of them, and tells as the whole one does."""
    rules = {"rules": ["loss > 0.001 for 4 logs", "no improvement in loss for 3 logs by 1000", "nan"]}
    save = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}

    def told(outcome):
        return [line for line in outcome.hooks("on_alert") if "alert=warning" in line]

    config = run_config(trainer=save)
    before = run_longline(config, plugins=[plugin(lark, **rules)])
    assert told(before) == []
    longer = run_config(trainer={**save, "max_steps": 5})
    after = run_longline(longer, plugins=[plugin(lark, **rules)], resume="last")
    whole = run_longline(plugins=[plugin(lark, **rules)], trainer={"max_steps": 5}, output_dir=str(tmp_path / "whole"))
    assert len(told(whole)) == 2
    assert told(after) == told(whole)


class Loud(Plugin):
    """Alerts as soon as there is a model."""

    @hookimpl
    def post_model_load(self, run):
        run.alert("loud", "a model is there")


def test_other_commands_tell_nobody(lark, run_config):
    from longline import stages
    from longline.run import open_run

    loaded = load_config(run_config())
    for command, titles in (("evaluate", 0), ("train", 1)):
        made = plugin(lark)
        state = open_run(loaded, command, [LoadedPlugin.of(made, "lark"), LoadedPlugin.of(Loud(PluginConfig()))])
        stages.model(state, stages.arguments(state), stages.tokenizer(state))
        made._close()
        assert len(lark.titles) == titles, command


def test_in_chinese(lark, run_longline):
    run_longline(plugins=[plugin(lark, language="zh", rules=["loss > 0.001"])], trainer={"max_steps": 2})
    quiet(lark)
    assert lark.titles == ["run: 已开始", "run: loss > 0.001", "run: 已完成"]
    assert lark.facts(1)["状态"] == "告警"
    assert re.search(r"loss 为 \d", lark.text(1))


# --- alerts ---------------------------------------------------------------------------------------------------------------------


def test_rules_raise_alerts_that_everybody_sees(lark, run_longline):
    rules = ["loss > 0.001", "no improvement in eval_loss for 1 evaluation by 1000", "nan"]
    outcome = run_longline(
        plugins=[plugin(lark, rules=rules)],
        data={"eval_fraction": 0.2},
        trainer={"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4},
    )
    quiet(lark)
    stalled = "no improvement in eval_loss for 1 evaluation by 1000"
    assert lark.titles == ["run: started", "run: loss > 0.001", f"run: {stalled}", "run: completed"]
    assert outcome.hooks("on_alert") == ["on_alert(alert=warning: loss > 0.001)", f"on_alert(alert=warning: {stalled})"]
    assert lark.facts(1)["Step"] == "1"
    assert lark.facts(2)["Step"] == "4"
    assert re.search(r"^loss is \d", lark.text(1))
    assert "eval_loss" in lark.facts(3)


def test_a_loss_that_is_no_number(lark, run_longline):
    held = []

    class Holds(Plugin):
        @hookimpl
        def on_train_begin(self, trainer):
            held.append(trainer)

    def spoil(run, step):
        next(iter(held[0].model.parameters())).data.fill_(float("nan"))

    run_longline(plugins=[plugin(lark, rules=["nan"]), Holds(PluginConfig()), at_step(3, spoil)], nonfinite_loss="continue")
    assert lark.titles == ["run: started", "run: nan", "run: completed"]
    assert "is NaN" in lark.text(1)
    assert lark.facts(2)["loss"] == "NaN"


def test_alerts_of_others_are_passed_on_and_repetition_is_held_back(lark, run_longline):
    def shout(run, step):
        for index in range(50):
            run.hook.on_alert(run=run, alert=Alert("too hot", f"{index} degrees, key {SECRET}", "error", 3))

    run_longline(plugins=[at_step(3, shout), plugin(lark)])
    quiet(lark)
    assert lark.titles == ["run: started", "run: too hot", "run: completed"]
    assert lark.facts(1)["Level"] == "error"
    assert "0 degrees, key **********" in lark.text(1)


def test_only_the_events_that_are_wanted(lark, run_longline):
    run_longline(plugins=[plugin(lark, events=["complete"], rules=["loss > 0.001"])], trainer={"max_steps": 2})
    assert lark.titles == ["run: completed"]


def test_a_rule_whose_metric_never_comes_is_named_at_the_end(lark, run_longline, caplog):
    run_longline(plugins=[plugin(lark, rules=["los > 10", "loss > 1000"])], trainer={"max_steps": 2})
    told = [record.getMessage() for record in caplog.records if record.name == "longline_lark"]
    assert len(told) == 1
    assert "no log event held the metric of these rules: 'los > 10'; there were" in told[0]


# --- when Lark is not well ------------------------------------------------------------------------------------------------------


def test_the_first_answers_fail_and_everything_arrives_in_order(lark, run_longline):
    lark.faults = ["500", "break"]
    run_longline(plugins=[plugin(lark)], trainer={"max_steps": 2})
    assert lark.titles == ["run: started", "run: completed"]


@pytest.mark.parametrize("kind", ["dead", "silent", "refusing"])
def test_a_server_that_takes_nothing_costs_a_bounded_end_and_nothing_else(lark, dead_url, run_longline, caplog, kind):
    lark.faults = ["silent"] * 99 if kind == "silent" else []
    lark.secret = "another" if kind == "refusing" else SECRET
    url = dead_url if kind == "dead" else lark.url
    made = LarkPlugin(LarkConfig(webhook_url=url, secret=SECRET, timeout=0.5, rules=["loss > 0.001"]))
    outcome = run_longline(plugins=[made])
    assert outcome.result.status == "completed"
    account = outcome.manifest["hooks"]["plugins"]["lark"]
    assert all(cost["failures"] == 0 for cost in account.values())
    assert account["on_run_end"]["seconds"] < 1.0
    assert account["on_log"]["seconds"] < 0.05
    told = [record.getMessage() for record in caplog.records if record.name == "longline_lark"]
    assert told[-1].startswith("lark: 3 of 3 messages were not delivered: ")
    assert TOKEN not in caplog.text


def test_without_a_secret_it_says_why_that_matters(lark, run_longline, caplog):
    lark.secret = None
    run_longline(plugins=[plugin(lark, secret=None)], trainer={"max_steps": 1})
    assert lark.titles == ["run: started", "run: completed"]
    told = [record for record in caplog.records if record.name == "longline_lark"]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "whoever learns the webhook can write to the group" in told[0].getMessage()
    assert "export LARK_SECRET" in told[0].getMessage()


def test_one_plugin_serves_several_runs(lark, run_longline):
    made = plugin(lark, rules=["loss > 0.001"])
    for _ in range(2):
        run_longline(plugins=[made], trainer={"max_steps": 1}, overwrite=True)
    assert lark.titles == ["run: started", "run: loss > 0.001", "run: completed"] * 2


# --- through the real entry point -----------------------------------------------------------------------------------------------


def longline(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environ}
    return subprocess.run([sys.executable, "-m", "longline", *arguments], env=env, capture_output=True, text=True, check=False)


def test_a_run_leaves_no_secret_anywhere(lark, run_config, tmp_path):
    """The whole program, with the credentials in the environment; the config that it saves runs again."""
    config = run_config(
        plugins={"lark": {"secret": "${LARK_SECRET}", "webhook_url": "${HOOK}", "rules": ["loss > 0.001"]}},
        trainer={"max_steps": 3, "save_strategy": "steps", "save_steps": 1},
    )
    done = longline("train", str(config), HOOK=lark.url, LARK_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    quiet(lark)
    assert lark.titles == ["run: started", "run: loss > 0.001", "run: completed"]
    assert all(SECRET.encode() not in body and TOKEN.encode() not in body for body in lark.bodies)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.json", "config.yaml", "log.jsonl"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert TOKEN.encode() not in content, path
    assert SECRET not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    again = longline("train", str(tmp_path / "run" / "config.yaml"), "--overwrite", HOOK=lark.url, LARK_SECRET=SECRET)
    assert again.returncode == 0, again.stderr
    assert len(lark.titles) == 6


def test_the_environment_alone_and_the_saved_config_repeats_the_run(lark, run_config, tmp_path, monkeypatch):
    monkeypatch.setenv("LARK_WEBHOOK_URL", lark.url)
    monkeypatch.setenv("LARK_SECRET", SECRET)
    train(load_config(run_config(plugins=["lark"], trainer={"max_steps": 1})))
    saved = tmp_path / "run" / "config.yaml"
    assert SECRET not in saved.read_text()
    train(load_config(saved), overwrite=True)
    assert lark.titles == ["run: started", "run: completed"] * 2


def test_a_signal_to_the_real_process(lark, run_config):
    config = run_config(plugins=["lark"], trainer={"max_steps": 100_000})
    env = {**os.environ, "LARK_WEBHOOK_URL": lark.url, "LARK_SECRET": SECRET}
    process = subprocess.Popen([sys.executable, "-m", "longline", "train", str(config)], env=env, stdout=subprocess.DEVNULL)
    lark.wait_for(1, seconds=60)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert lark.titles == ["run: started", "run: interrupted"]


def test_of_two_ranks_only_the_main_one_talks(lark, run_config):
    config = run_config(plugins={"lark": {"rules": ["loss > 0.001"]}}, trainer={"max_steps": 2})
    done = longline("train", str(config), "--nproc", "2", LARK_WEBHOOK_URL=lark.url, LARK_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    quiet(lark)
    assert lark.titles == ["run: started", "run: loss > 0.001", "run: completed"]


def test_a_worker_of_the_data_loader_sends_nothing(lark, run_longline):
    run_longline(plugins=[plugin(lark)], trainer={"max_steps": 2, "dataloader_num_workers": 2})
    assert lark.titles == ["run: started", "run: completed"]


def test_no_folder_is_written_beside_the_run(lark, run_longline, tmp_path: Path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_longline(plugins=[plugin(lark)], trainer={"max_steps": 1})
    assert list((tmp_path / "here").iterdir()) == []


# --- what servers and models say ------------------------------------------------------------------------------------------------


def test_a_server_that_answers_at_length_and_says_it_all_again(lark, run_longline, caplog, tmp_path):
    lark.says = json.dumps({"data": "x" * 10_000_000, "msg": f"{lark.url} {SECRET}", "code": 0}).encode()
    run_longline(plugins=[plugin(lark)])
    assert lark.titles == ["run: started", "run: completed"]
    lark.says = json.dumps({"msg": f"no such thing as {lark.url} \x1b[2J{SECRET}", "code": 7}).encode()
    run_longline(plugins=[plugin(lark)], output_dir=str(tmp_path / "again"))
    assert "Lark refused the message (HTTP 200, code 7: no such thing as **********" in caplog.text
    for hidden in (SECRET, TOKEN, "\x1b"):
        assert hidden not in caplog.text


def test_what_a_model_wrote_is_shown_in_a_card_and_does_nothing(lark, run_longline, capsys):
    odd = Alert("half \ud83d of\na pair", "red \x1b[31m and \u202ereversed")
    outcome = run_longline(plugins=[plugin(lark), at_step(3, lambda run, step: run.hook.on_alert(run=run, alert=odd))])
    assert outcome.result.status == "completed"
    assert lark.titles[1] == "run: half \\ud83d of\\na pair"
    assert "red \\x1b[31m and \\u202ereversed" in lark.text(1)
    out = capsys.readouterr().out
    assert "half \\ud83d of\\na pair" in out
    assert "\x1b[31m" not in out

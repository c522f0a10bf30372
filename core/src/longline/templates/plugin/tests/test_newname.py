"""Real runs of a tiny model, through the fixtures that come with Longline."""

import pytest
from longline.cli import run_cli

from longline_newname.config import NewNameConfig
from longline_newname.plugin import METRIC, NewNamePlugin


def plugin(**options):
    return NewNamePlugin(NewNameConfig(**options))


def test_the_lowest_loss_is_in_the_log(run_longline):
    outcome = run_longline(plugins=[plugin()], trainer={"max_steps": 4})
    assert outcome.result.status == "completed"
    events = [event for event in outcome.log if "loss" in event]
    losses = [event["loss"] for event in events]
    assert [event[METRIC] for event in events] == [min(losses[: number + 1]) for number in range(len(losses))]


def test_a_loss_that_does_not_fall_is_told_once(run_longline):
    still = {"max_steps": 5, "learning_rate": 0.0, "train_sampling_strategy": "sequential"}
    outcome = run_longline(plugins=[plugin(patience=1)], trainer=still)
    assert outcome.hooks("on_alert")[:1] == ["on_alert(alert=warning: the loss no longer falls)"]


def test_what_it_knows_survives_a_checkpoint():
    one, other = plugin(), plugin()
    one.lowest, one.since = 1.5, 7
    other.restore(one.state())
    assert (other.lowest, other.since) == (1.5, 7)


def test_a_run_without_a_log_is_refused_by_check(run_config, capsys):
    config = run_config(plugins=["newname"], trainer={"logging_strategy": "no"})
    assert run_cli(["check", str(config)]) == 3
    assert "without log events there is no loss to look at" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["{patience: 0}", "{patiense: 3}"])
def test_wrong_options_are_errors_with_their_place(run_config, capsys, options):
    config = run_config()
    config.write_text(f"{config.read_text()}plugins:\n  newname: {options}\n")
    assert run_cli(["check", str(config)]) != 0
    assert "patience" in capsys.readouterr().err


def test_it_is_well_behaved(assert_well_behaved):
    assert_well_behaved(NewNamePlugin, {"patience": 2})

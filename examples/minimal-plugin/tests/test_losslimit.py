"""A real run of a tiny model, in which the plugin's hook fires."""

from longline_losslimit.config import LossLimitConfig
from longline_losslimit.plugin import LossLimitPlugin


def test_a_loss_above_the_limit_raises_one_alert(run_longline):
    plugin = LossLimitPlugin(LossLimitConfig(limit=0.001, patience=3))
    outcome = run_longline(plugins=[plugin], trainer={"max_steps": 5})
    assert outcome.result.status == "completed"
    assert outcome.hooks("on_alert") == ["on_alert(alert=warning: the loss is above its limit)"]


def test_a_loss_below_the_limit_raises_none(run_longline):
    outcome = run_longline(plugins=[LossLimitPlugin(LossLimitConfig(limit=1000))], trainer={"max_steps": 3})
    assert len(outcome.hooks("on_log")) >= 3
    assert outcome.hooks("on_alert") == []

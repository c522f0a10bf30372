"""Real runs of a tiny model: the average is what the formula says, and a resumed run ends as an uninterrupted one."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from longline import Plugin, PluginConfig, hookimpl
from longline.plugins import LoadedPlugin
from longline_gradaverage.config import GradAverageConfig
from longline_gradaverage.plugin import GradAveragePlugin


class Seen(Plugin):
    """Remembers the gradients of one weight before and after the plugin."""

    def __init__(self):
        super().__init__(PluginConfig())
        self.gradients = []

    @hookimpl
    def pre_optimizer_step(self, trainer):
        self.gradients.append(trainer.model.lm_head.weight.grad.clone())


class Stop(Plugin):
    """Asks the run to stop after two steps, as Ctrl-C does."""

    @hookimpl
    def on_step_end(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)


def test_gradients_get_the_average_of_the_formula(run_longline):
    before, after = LoadedPlugin.of(Seen(), "before"), LoadedPlugin.of(Seen(), "after")
    plugin = GradAveragePlugin(GradAverageConfig(decay=0.5, weight=2.0))
    run_longline(plugins=[before, plugin, after], trainer={"max_steps": 4, "max_grad_norm": 0})
    average = torch.zeros_like(before.instance.gradients[0])
    for given, changed in zip(before.instance.gradients, after.instance.gradients, strict=True):
        average = 0.5 * average + 0.5 * given
        torch.testing.assert_close(changed, given + 2.0 * average)
    assert len(before.instance.gradients) == 4


@pytest.fixture
def weights(run_longline, run_config):
    """The final weights of four steps, with other plugins before ours."""

    def run(name, *more, resume=None):
        config = run_config(output_dir=str(run_config().parent / name), trainer={"max_steps": 4, "max_grad_norm": 0})
        plugin = GradAveragePlugin(GradAverageConfig())
        outcome = run_longline(config, plugins=[*more, plugin], resume=resume)
        return outcome, outcome.output_dir / "model" / "model.safetensors"

    return run


def test_resumed_equals_uninterrupted(weights):
    _, whole = weights("whole")
    stopped, _ = weights("stopped", Stop(PluginConfig()))
    assert stopped.result.status == "interrupted"
    assert (stopped.output_dir / "checkpoint-2" / "plugins" / "gradaverage.rank0.pt").is_file()
    _, resumed = weights("stopped", resume="last")
    expected, found = load_file(whole), load_file(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_it_is_well_behaved(assert_well_behaved):
    assert_well_behaved(GradAveragePlugin)

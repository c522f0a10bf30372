"""Real runs of a tiny model: what is saved is the average, and it says so."""

import json

import torch
from safetensors.torch import load_file

from longline import Plugin, PluginConfig, hookimpl
from longline_weightaverage.config import WeightAverageConfig
from longline_weightaverage.plugin import FILE, WeightAveragePlugin


class Seen(Plugin):
    """Remembers one weight after every step."""

    def __init__(self):
        super().__init__(PluginConfig())
        self.weights = []

    @hookimpl
    def post_optimizer_step(self, trainer):
        self.weights.append(trainer.model.lm_head.weight.detach().clone())


def test_the_saved_weights_are_the_average(run_longline):
    seen, plugin = Seen(), WeightAveragePlugin(WeightAverageConfig(decay=0.5))
    outcome = run_longline(plugins=[seen, plugin], trainer={"max_steps": 4})
    average = seen.weights[0]
    for weight in seen.weights[1:]:
        average = 0.5 * average + 0.5 * weight
    saved = load_file(outcome.output_dir / "model" / "model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(saved, average)
    assert not torch.equal(saved, seen.weights[-1])


def test_it_is_told_everywhere(run_longline, capsys):
    outcome = run_longline(plugins=[WeightAveragePlugin(WeightAverageConfig())], trainer={"max_steps": 2})
    assert outcome.manifest["plan"]["saved weights"] == "average of 2 steps"
    assert "saved weights: average of 2 steps" in (outcome.output_dir / "model" / "README.md").read_text()
    assert "average of 2 steps" in capsys.readouterr().out
    assert json.loads((outcome.output_dir / "model" / FILE).read_text()) == {"steps": 2, "decay": 0.99}


def test_it_is_well_behaved(assert_well_behaved):
    assert_well_behaved(WeightAveragePlugin)

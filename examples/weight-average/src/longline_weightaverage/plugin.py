"""The plugin: the saved model is the average of the weights of all steps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longline import Plugin, hookimpl
from longline_weightaverage.config import WeightAverageConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from longline import Run

FILE = "weight_average.json"


class WeightAveragePlugin(Plugin):
    """Keeps average <- decay * average + (1 - decay) * weight after each step; `pre_save` puts the averages into the model."""

    Config = WeightAverageConfig
    config: WeightAverageConfig
    state_ranks = "all"  # under FSDP2 each rank averages its own shards

    def __init__(self, config: WeightAverageConfig) -> None:
        super().__init__(config)
        self.averages: dict[str, torch.Tensor] = {}
        self.steps = 0

    @hookimpl
    def post_optimizer_step(self, trainer: Any) -> None:
        """Take the new weights into the average; the first ones are its start."""
        self.steps += 1
        for name, weight in _trained(trainer.accelerator.unwrap_model(trainer.model)):
            average = self.averages.get(name)
            if average is None:
                self.averages[name] = weight.clone()
            else:
                average.lerp_(weight, 1 - self.config.decay)

    @hookimpl
    def pre_save(self, run: Run, model: Any) -> None:
        """Put the averages in place of the last weights; a merge of a finished run has them already."""
        if not self.averages:
            return
        for name, weight in _trained(model):
            weight.copy_(self.averages[name])
        run.fact("saved weights", f"average of {self.steps} steps", f"weightaverage, decay {self.config.decay:g}")

    @hookimpl
    def post_save(self, path: Path) -> None:
        """Say in the folder what the weights are."""
        if self.averages:
            content = {"steps": self.steps, "decay": self.config.decay}
            (path / FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    def state(self) -> Mapping[str, Any]:
        """The averages, for checkpoints."""
        return {"averages": self.averages, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the averages of a checkpoint."""
        self.averages, self.steps = dict(state["averages"]), state["steps"]


def _trained(model: Any) -> list[tuple[str, Any]]:
    """The weights that are trained, by name; of shards the part that this rank has. They share memory with the model."""
    trained = [(name, weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad]
    return [(name, weight.to_local() if hasattr(weight, "to_local") else weight) for name, weight in trained]

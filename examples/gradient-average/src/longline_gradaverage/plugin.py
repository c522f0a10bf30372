"""The plugin: gradients get a share of the average of those before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import Plugin, Problem, hookimpl
from longline_gradaverage.config import GradAverageConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from longline import Config, Plan


class GradAveragePlugin(Plugin):
    """For each trained weight: average <- decay * average + (1 - decay) * gradient, then gradient += weight * average."""

    Config = GradAverageConfig
    config: GradAverageConfig
    state_ranks = "all"  # a rank averages the gradients that it has, and under FSDP2 those are its own shards

    def __init__(self, config: GradAverageConfig) -> None:
        super().__init__(config)
        self.averages: dict[str, torch.Tensor] = {}

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse an optimizer that never sees gradients as tensors."""
        if str(plan.trainer_args.get("optim", "")).startswith("lomo"):
            yield Problem(
                "this optimizer uses gradients up while they are computed", path="trainer.optim", hint="use adamw_torch"
            )

    @hookimpl
    def pre_optimizer_step(self, trainer: Any) -> None:
        """Gradients are accumulated, unscaled and clipped: take them into the average, and the average into them."""
        for name, parameter in trainer.model.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                continue
            local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
            average = self.averages.get(name)
            if average is None:
                average = self.averages[name] = local.detach().clone().mul_(1 - self.config.decay)
            else:
                average.mul_(self.config.decay).add_(local, alpha=1 - self.config.decay)
            local.add_(average, alpha=self.config.weight)

    def state(self) -> Mapping[str, Any]:
        """The averages, for checkpoints."""
        return {"averages": self.averages}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the averages of a checkpoint."""
        self.averages = dict(state["averages"])

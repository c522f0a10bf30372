"""The plugin: gradients get the slow part of those before them, before or after they are clipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import LonglineError, Plugin, hookimpl
from longline_grokfast import needs
from longline_grokfast.config import GrokfastConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from longline import Config, Plan, Problem, Run
    from longline_grokfast.filters import SlowPart


class GrokfastPlugin(Plugin):
    """gradient += lamb * slow part of the gradients so far, for each trained weight that the options take."""

    Config = GrokfastConfig
    config: GrokfastConfig
    state_ranks = "all"  # a rank filters the gradients that it has: under FSDP2 its shards, under DDP the same as the others

    def __init__(self, config: GrokfastConfig) -> None:
        super().__init__(config)
        self._slow_part: SlowPart | None = None

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse what shows no gradients, and a window that never gets full."""
        return needs.problems(self.config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """What is added to which gradients, and when."""
        return needs.lines(self.config, plan)

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Look for the weights that the options name, and tell how many there are."""
        from longline_grokfast import weights

        for problem in needs.problems(self.config, run.plan):  # steps are known now
            raise LonglineError(problem.message, hint=problem.hint)
        if trainer.is_deepspeed_enabled:  # by a launcher, not by the config
            raise LonglineError(needs.WITHIN_BACKWARD, hint=needs.REMOVE)
        taken = weights.taken(trainer.model, self.config)
        run.fact("grokfast", *weights.told(taken, trainer.model, self.config))

    @hookimpl
    def pre_gradient_clip(self, trainer: Any) -> None:
        """Gradients are as the batches gave them."""
        if self.config.place == "before_clipping":
            self._amplify(trainer)

    @hookimpl
    def pre_optimizer_step(self, trainer: Any) -> None:
        """Gradients are clipped."""
        if self.config.place == "after_clipping":
            self._amplify(trainer)

    def _amplify(self, trainer: Any) -> None:
        from longline_grokfast import filters, weights

        held = list(weights.gradients(trainer.model, self.config))
        if weights.overflown(held, trainer.accelerator):
            return  # the scaler makes no step of these
        filters.amplify(held, self._filter(), self.config.times)

    def _filter(self) -> SlowPart:
        from longline_grokfast import filters

        if self._slow_part is None:
            self._slow_part = filters.make(self.config)
        return self._slow_part

    def state(self) -> Mapping[str, Any]:
        """The averages of this rank, and what they are averages over."""
        return {**needs.kept_by(self.config), "weights": self._filter().state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the averages of a checkpoint. Raises LonglineError when they are of another filter."""
        needs.refuse_other(self.config, state)
        self._filter().restore(state["weights"])

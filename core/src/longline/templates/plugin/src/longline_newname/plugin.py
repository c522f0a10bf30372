"""The plugin: what it does at which hook. What is heavy is imported in the hook that needs it, not here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from longline import Plugin, Problem, hookimpl

from longline_newname.config import NewNameConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from longline import Plan, Run
    from longline.config import sections

METRIC = "newname/lowest_loss"


class NewNamePlugin(Plugin):
    """Adds the lowest loss so far to every log event, and warns when it has not fallen for `patience` of them."""

    Config = NewNameConfig
    config: NewNameConfig

    def __init__(self, config: NewNameConfig) -> None:
        super().__init__(config)
        self.lowest = math.inf
        self.since = 0

    # --- before a run -----------------------------------------------------------------------------

    def check(self, config: sections.Config, plan: Plan) -> Iterator[Problem]:
        """Refuse what could never do anything; `longline check` tells it with the line of the config."""
        if plan.trainer_args.get("logging_strategy") == "no":
            yield Problem("without log events there is no loss to look at", path="trainer.logging_strategy")

    def plan(self, config: sections.Config, plan: Plan) -> Iterator[str]:
        """What `longline plan` says of this plugin."""
        yield f"{METRIC} in every log event; a warning after {self.config.patience} without a new lowest one"

    # --- while it trains --------------------------------------------------------------------------

    @hookimpl
    def pre_log(self, run: Run, logs: dict[str, float], step: int) -> None:
        """Add the metric; evaluations, which log no `loss`, are left alone."""
        if "loss" not in logs:
            return
        self.since = 0 if logs["loss"] < self.lowest else self.since + 1
        self.lowest = min(self.lowest, logs["loss"])
        logs[METRIC] = self.lowest
        if self.since == self.config.patience:
            run.alert("the loss no longer falls", f"the lowest is {self.lowest:.4g}, {self.since} log events ago")

    # --- in checkpoints: a resumed run is the same as an uninterrupted one ------------------------

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint keeps of the plugin."""
        return {"lowest": self.lowest, "since": self.since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.lowest, self.since = state["lowest"], state["since"]

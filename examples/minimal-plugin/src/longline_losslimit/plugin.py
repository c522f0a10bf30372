"""The plugin: one hook in, one event out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline import Alert, Plugin, hookimpl
from longline_losslimit.config import LossLimitConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longline import Run


class LossLimitPlugin(Plugin):
    """Raises one alert each time the loss has stayed above the limit for `patience` log events."""

    Config = LossLimitConfig
    config: LossLimitConfig

    def __init__(self, config: LossLimitConfig) -> None:
        super().__init__(config)
        self.above = 0

    @hookimpl
    def on_log(self, run: Run, logs: Mapping[str, float], step: int) -> None:
        """Count events above the limit; evaluations, which log no `loss`, don't count."""
        if "loss" not in logs:
            return
        self.above = self.above + 1 if logs["loss"] > self.config.limit else 0
        if self.above == self.config.patience:
            text = f"{logs['loss']:.4g} at step {step}, {self.above} log events in a row above {self.config.limit:g}"
            run.hook.on_alert(run=run, alert=Alert("the loss is above its limit", text, step=step))

"""When checkpoints are complete, on every rank: the hook of it is the main rank's alone, so this is a callback of the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from longline import Run
    from longline_lm_eval.plugin import LmEvalPlugin


class AtCheckpoints(TrainerCallback):
    """Calls the plugin at each checkpoint but the last, where the saved model is asked, and at one that a resumed run owes."""

    def __init__(self, plugin: LmEvalPlugin, run: Run, trainer: Any) -> None:
        self.plugin, self.run, self.trainer = plugin, run, trainer
        self.resumed = run.resumed_from is not None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What a signal kept the run from, before it goes on; behind what the trainer itself owes."""
        if self.resumed:
            self.resumed = False
            self.plugin.at_checkpoint(self.run, self.trainer)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint is complete. Who stopped the run by a signal does not wait for an evaluation."""
        last = control.should_training_stop and (self.plugin.config.post_train or state.global_step < state.max_steps)
        if not last:
            self.plugin.at_checkpoint(self.run, self.trainer)

"""The bridge from the trainer's callbacks to Longline's hooks, and the place where a signal stops a run between two steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from longline.events import Completions
from longline.parallel.ranks import most
from longline.plugins.metrics import Metrics
from longline.trainers.going_on import NothingLeftError, find_best, nothing_left, owes_evaluation, take_up
from longline.trainers.isolation import require_isolation
from longline.trainers.plugin_states import restore
from longline.trainers.trainer import EvaluationStoppedError, LonglineTrainer

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from longline.plugins.run import State


class HookBridge(TrainerCallback):
    """Turns what the trainer tells its callbacks into hooks. Added last, so it has the final word on what happens next."""

    def __init__(self, state: State, trainer: LonglineTrainer) -> None:
        self.state = state
        self.run = state.view
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Training starts, with the state of a resumed run in place, plugins' own too."""
        if self.run.plan.packing:
            require_isolation(self.trainer)  # the model is on its device, sharded and wrapped only now
        before = self.trainer.count_tokens_from(state.log_history)
        self.state.begin_at(state.global_step, before)
        restore(self.run.plugins, self.state.restored)
        if self.run.resumed_from:
            self._go_on(args, state)
        if state.max_steps != self.run.plan.steps:  # a data loader of a plugin's own, or rows that were left out
            self.state.replan(
                replace(self.run.plan, steps=state.max_steps).with_fact("steps", str(state.max_steps), "the trainer")
            )
        self.run.hook.on_train_begin(run=self.run, trainer=self.trainer)
        if why := nothing_left(self.trainer):
            raise NothingLeftError(why)

    def _go_on(self, args: TrainingArguments, state: TrainerState) -> None:
        """Put right what the trainer takes from its state as it was saved."""
        if self.trainer.begins_anew_at is not None:
            text = f"optimizer and schedule start anew at step {state.global_step}, for what is left of {state.max_steps} steps"
            self.run.alert("weights only", text)
        elif self.run.resumed_from:
            take_up(self.trainer, self.run.resumed_from)
        self.trainer.owes_evaluation = owes_evaluation(args, state)
        # How often is the config's word, and not the checkpoint's.
        state.compute_steps(args, state.max_steps)  # type: ignore[no-untyped-call]
        if lost := find_best(self.run, state):
            self.run.alert("the best checkpoint is gone", lost)
        for event in state.log_history:
            values = {name: value for name, value in event.items() if name != "step"}
            self.state.record(values, int(event["step"]), event.get("epoch", 0.0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gradients are ready."""
        self.run.hook.pre_optimizer_step(run=self.run, trainer=self.trainer, step=state.global_step + 1)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Weights changed, and gradients are still there."""
        self.run.hook.post_optimizer_step(run=self.run, trainer=self.trainer, step=state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Weights changed; if a signal came on any rank, save and stop here, on all ranks at the same step."""
        # Now and not with the loss: who stops in the middle of a step has told nothing of it.
        self._tell_completions(state.global_step)
        self.state.summary = replace(self.state.summary, steps=state.global_step)  # what is logged or told next is of this step
        self.run.hook.on_step_end(run=self.run, step=state.global_step)
        if self._asked_to_stop():
            control.should_evaluate, control.should_save = False, True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The trainer ends an epoch also when it was stopped within one: nothing more is evaluated or saved then."""
        if self.state.stop.obeyed:
            control.should_evaluate = control.should_save = False

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A signal ends an evaluation at once: it may take longer than anyone wants to wait."""
        if self.run.phase == "train" and self._asked_to_stop():
            raise EvaluationStoppedError

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The trainer logs."""
        metrics = Metrics(logs or {})
        self.run.hook.pre_log(run=self.run, logs=metrics, step=state.global_step)
        self.state.added_metrics.update(metrics.keys() - (logs or {}).keys())
        self.state.record(metrics, state.global_step, state.epoch or 0.0)
        self.run.hook.on_log(run=self.run, logs=MappingProxyType(dict(metrics)), step=state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """An evaluation is done and was logged."""
        self.run.hook.on_evaluate(run=self.run, metrics=MappingProxyType(dict(metrics or {})), step=state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint is complete; it was the last one if a signal asked for it."""
        # Not before: a checkpoint keeps whether the run was over, and this one is not.
        control.should_training_stop |= self.state.stop.obeyed
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.run.hook.on_checkpoint(run=self.run, path=path, step=state.global_step)

    def _tell_completions(self, step: int) -> None:
        """Tell what this step was made of; methods that compare nothing have noted nothing."""
        rows = self.trainer.take_noted()
        if rows:
            columns = self.run.method.completions
            completions = Completions(self.run.config.method, tuple(rows), columns.score if columns else "")
            self.run.hook.on_completions(run=self.run, completions=completions, step=step)

    def _asked_to_stop(self) -> bool:
        """Whether a signal came on some rank; then every rank knows of it, so that all of them end in the same way."""
        stop = self.state.stop
        asked = most(stop.signum or 0)
        if not asked:
            return False  # a signal that came while the ranks agreed is told at the next step, not taken back here
        stop.signum = asked
        stop.obeyed = True
        return True

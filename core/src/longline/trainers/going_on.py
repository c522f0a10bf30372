"""Resumed equals uninterrupted: what transformers leaves behind when it goes on from a checkpoint, beside weights and optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from transformers import EarlyStoppingCallback

from longline import upstream

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainerState, TrainingArguments

    from longline.plugins.run import Run
    from longline.resuming.checkpoint import Checkpoint
    from longline.trainers.trainer import LonglineTrainer


class NothingLeftError(Exception):
    """A resumed run has no step left to make, for the reason that it says; never leaves the spine."""


def restore_callbacks(trainer: LonglineTrainer, checkpoint: Checkpoint) -> None:
    """Give every callback that can export its state what it had: its attributes, not what it was made with, which the config says.

    transformers can restore callbacks, too: it makes them anew, behind all others, with the arguments of the checkpoint, and takes
    back a stop that a signal asked for.
    """
    kept = checkpoint.state.get("stateful_callbacks") or {}
    exporting = [callback for callback in trainer.callback_handler.callbacks if upstream.transformers.exports_state(callback)]
    for name in dict.fromkeys(type(callback).__name__ for callback in exporting):
        alike = [callback for callback in exporting if type(callback).__name__ == name]
        states = kept.get(name, [])
        # Of several of a class transformers keeps a list that grows with each checkpoint; the last ones are theirs.
        for callback, state in zip(alike, (states if isinstance(states, list) else [states])[-len(alike) :], strict=False):
            for attribute, value in state.get("attributes", {}).items():
                setattr(callback, attribute, value)
    control, early = kept.get("TrainerControl", {}).get("args", {}), kept.get(EarlyStoppingCallback.__name__, {})
    over = bool(control.get("should_training_stop")) and checkpoint.step < int(checkpoint.state["max_steps"])
    if isinstance(early, dict) and early:  # its patience may be another now, so it is asked anew
        over &= early["attributes"]["early_stopping_patience_counter"] < early["args"]["early_stopping_patience"]
    # Of those without a record one cannot tell: they kept the stop that a signal asked for.
    trainer.was_ended = bool(checkpoint.record) and over


def between_steps(rank: int) -> str:
    """The file of a checkpoint with what one rank has between two steps."""
    return f"trainer.rank{rank}.pt"


def take_up(trainer: LonglineTrainer, checkpoint: Path) -> None:
    """Give the trainer what its rank had between two steps; a checkpoint of other ranks has nothing for it."""
    path = checkpoint / between_steps(trainer.run.rank)
    if path.is_file():
        kept = torch.load(path, map_location="cpu", weights_only=True)
        trainer.take_up(send_to_device(kept, trainer.args.device))


def nothing_left(trainer: LonglineTrainer) -> str | None:
    """Why there is no step to make: all are done, or what stopped the run would stop it again. None where some are left."""
    state = trainer.state
    if state.global_step >= state.max_steps:
        return f"all {state.max_steps} steps are done"
    if trainer.was_ended:
        return f"a callback ended the run at step {state.global_step}"
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            waited, patience = callback.early_stopping_patience_counter, callback.early_stopping_patience
            if waited >= patience:
                return f"early stopping ended the run at step {state.global_step}, {waited} evaluations without improvement"
    return None


def owes_evaluation(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the step of a checkpoint was to be evaluated and was not, by the state as it was saved.

    A signal ends a run without the evaluation that is due then, and at the end of an epoch a checkpoint may be made before it.
    """
    step, whole = state.global_step, float(state.epoch or 0.0).is_integer()
    if any(event.get("step") == step and any(name.startswith("eval_") for name in event) for event in state.log_history):
        return False
    if args.eval_strategy == "steps":
        return step % state.eval_steps == 0 and args.eval_delay <= step
    return bool(args.eval_strategy == "epoch" and whole and args.eval_delay <= state.epoch)


def find_best(run: Run, state: TrainerState) -> str | None:
    """Name the best checkpoint where it lies now, as run folders are moved; returns what a person should know when it is gone."""
    if not state.best_global_step or state.best_model_checkpoint:
        return None
    name = f"checkpoint-{state.best_global_step}"
    folders: list[Any] = [run.output_dir, run.resumed_from.parent if run.resumed_from else run.output_dir]
    found = next((folder / name for folder in folders if (folder / name).is_dir()), None)
    state.best_model_checkpoint = str(found) if found else None
    return None if found else f"{name} had the best metric so far; only a better one will be loaded at the end"

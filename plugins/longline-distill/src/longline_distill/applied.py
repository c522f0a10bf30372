"""The loss as it is applied to one run: the student's head, a teacher, and the account of what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from longline import LonglineError
from longline.loss.head import HeadTap, bare, unfit
from longline_distill.config import recorded
from longline_distill.divergence import Mix
from longline_distill.objective import Objective, out_features
from longline_distill.trainer import DRAWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longline import Run
    from longline_distill.config import DistillConfig
    from longline_distill.objective import View


class Teacher(Protocol):
    """Who is asked about a batch."""

    def ask(self, inputs: dict[str, Any], logits: int) -> View:
        """About the learnt tokens of a batch, as the trainer feeds it, for a student with so many `logits`."""
        ...

    def end(self) -> None:
        """Nobody will be asked any more."""
        ...


class Applied:
    """A `LossFunction`: `(trainer, model, inputs, num_items_in_batch) -> (loss, outputs)`."""

    def __init__(self, model: Any, options: DistillConfig) -> None:
        """Install it on the student. Raises LonglineError for a model whose head cannot be seen."""
        if why := unfit(model):
            raise LonglineError(f"not applied: {why}", hint="distill computes its loss at the output head")
        self._options = options
        self._objective = Objective(
            Mix(options.alpha, options.temperature, options.divergence, options.beta), options.chunk_tokens
        )
        self._tap = HeadTap(model, self._objective)
        self._logits = out_features(bare(model).get_output_embeddings())
        self._teacher: Teacher | None = None
        self._sums: dict[bool, torch.Tensor] = {}
        self._trainer: Any = None

    def begin(self, run: Run, trainer: Any, tokenizer: Any, server: Sequence[Teacher]) -> None:
        """Get the teacher ready; every rank must call it."""
        self._trainer = trainer
        trainer.on_policy = self._options.on_policy
        if self._options.teacher is not None:
            from longline_distill import local

            self._teacher = local.load(run, self._options.teacher, self._options, tokenizer)
        elif self._options.column is not None:
            from longline_distill.columns import ColumnTeacher

            names = recorded(self._options.column) if self._options.layout == "recorded" else None
            self._teacher = ColumnTeacher(trainer, names)
        else:
            [self._teacher] = server

    def __call__(self, trainer: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        """The loss of one batch, and what the model put out."""
        if self._teacher is None:
            raise LonglineError("no teacher is ready")
        asked = {name: value for name, value in inputs.items() if name not in ("labels", "num_items_in_batch")}
        self._objective.view = self._teacher.ask({**asked, "labels": inputs["labels"]}, self._logits)
        self._objective.drawn = DRAWN in trainer.columns
        with self._tap.armed(inputs["labels"]):
            result = trainer.method_loss(model, inputs, num_items_in_batch)
        if (sums := self._objective.sums) is not None:
            if self._objective.drawn:  # the cross entropy of one's own answers says nothing
                sums = sums * sums.new_tensor([0, 1, 1, 0, 1])
            before = self._sums.get(model.training)
            self._sums[model.training] = sums if before is None else before + sums
        return result

    def report(self, logs: dict[str, float]) -> None:
        """Add what was measured since the last event of its kind, over all ranks; every rank must call it."""
        name = next((name for name in logs if name == "loss" or (name.startswith("eval_") and name.endswith("_loss"))), None)
        sums = self._sums.pop(name == "loss", None) if name else None
        if name is None or self._trainer is None:
            return
        device = self._trainer.args.device
        total = self._trainer.accelerator.reduce(
            torch.zeros(5, device=device) if sums is None else sums.to(device), "sum"
        ).tolist()
        entropy, apart, agreeing, tokens, taught = total
        before = name.removesuffix("loss")
        if tokens:
            logs[f"{before}ce"] = entropy / tokens
        if taught:
            logs[f"{before}{'kl' if self._options.divergence == 'forward_kl' else self._options.divergence}"] = apart / taught
            logs[f"{before}agreement"] = agreeing / taught

    def end(self) -> None:
        """Leave the models as they were."""
        self._tap.remove()
        if self._teacher is not None:
            self._teacher.end()

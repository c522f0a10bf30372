"""The plugin: the loss at the output head, or an error before training that says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longline import LonglineError, Plugin, Table, hookimpl
from longline_cce.config import CceConfig

if TYPE_CHECKING:
    from longline import Run
    from longline.hookspecs import LossFunction
    from longline_cce.applied import HeadLoss

REMOVE = "remove cce from plugins:"


class CcePlugin(Plugin):
    """Answers `provide_loss` for sft, tries the loss on the real model, and shows what is applied."""

    Config = CceConfig
    claims = frozenset({"loss"})
    config: CceConfig

    def __init__(self, config: CceConfig) -> None:
        super().__init__(config)
        self._loss: HeadLoss | None = None

    @hookimpl
    def pre_trainer_args(self, run: Run, trainer_args: dict[str, Any]) -> None:
        """Refuse a method and arguments that this loss is not for, before anything is loaded."""
        if not run.method.cross_entropy:
            hint = f"{REMOVE} trl's trainers have losses without all logits themselves"
            raise LonglineError(f"not applied: cce is for method: sft, and this is {run.method.name}", hint=hint)
        if trainer_args.get("label_smoothing_factor"):
            text = "not applied: cce and trainer.label_smoothing_factor exclude each other: smoothing needs all logits"
            raise LonglineError(text, hint=f"trainer.label_smoothing_factor: 0, or {REMOVE}")

    @hookimpl
    def provide_loss(self, model: Any) -> LossFunction:
        """Answer with the loss at the head of this model."""
        from longline_cce.applied import HeadLoss

        self._loss = HeadLoss(model, self.config)
        return self._loss

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Choose the arithmetic, try it on a few tokens, and print what came of it."""
        from longline_cce.applied import COLUMNS, as_lines

        loss = self._loss
        if loss is None or trainer.loss_function is not loss:
            raise LonglineError("not applied: another plugin provides the loss", hint=f"{REMOVE} or the other one")
        loss.settle(trainer)
        rows = loss.rows()
        if run.is_main:
            click.echo("\n".join(["cce, the loss at the output head", *(f"  {line}" for line in as_lines(rows))]))
        run.hook.on_table(run=run, table=Table("cce", COLUMNS, tuple(rows), 0))

    @hookimpl
    def on_run_end(self) -> None:
        """Leave the model as it was."""
        if self._loss is not None:
            self._loss.tap.remove()
            self._loss = None

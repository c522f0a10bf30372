"""The plugin: the loss at the output head, or an error before training that says why not."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from longline import Finding, LonglineError, Plugin, Table, hookimpl
from longline.upstream import untested
from longline_cce import needs
from longline_cce.config import CceConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longline import Config, Plan, Problem, Run
    from longline.hookspecs import LossFunction
    from longline_cce.applied import HeadLoss


class CcePlugin(Plugin):
    """Answers `provide_loss` for sft, tries the loss on the real model, and shows what is applied."""

    Config = CceConfig
    claims = frozenset({"loss"})
    config: CceConfig

    def __init__(self, config: CceConfig) -> None:
        super().__init__(config)
        self._loss: HeadLoss | None = None

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse a method, arguments and a machine that this loss is not for."""
        return needs.problems(self.config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """Which arithmetic is asked for."""
        yield f"computes the loss at the output head, without all logits at once; arithmetic: {self.config.impl}"

    def doctor(self) -> Iterable[Finding]:
        """Whether the kernels' library is one that the tests ran with."""
        from longline_cce.upstream import TESTED

        yield from (Finding("library", f"untested: {text}", "warning") for text in untested(TESTED))
        if find_spec("cut_cross_entropy") is None:
            needed = "error" if self.config.impl in ("cce", "torch_compile") else "ok"
            yield Finding("library", f"{needs.LIBRARY} is not installed: impl: chunked is what there is", needed)

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
            raise LonglineError("not applied: another plugin provides the loss", hint=f"{needs.REMOVE} or the other one")
        loss.settle(trainer)
        if loss.choice is not None:
            run.fact("loss", f"at the output head, {loss.choice.impl}", loss.choice.why)
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

"""The plugin: finds the mixtures of the policy, the rule of each router, and lets all experts into its gradient."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from longline import Finding, LonglineError, Plugin, Table, hookimpl
from longline.upstream import untested
from longline_densemixer import needs
from longline_densemixer.config import DenseMixerConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longline import Config, Plan, Problem, Run
    from longline.events import Role
    from longline_densemixer.layers import Layer, Tally

COLUMNS = ("layers", "router", "rule", "experts", "forward")
METRIC = "densemixer/unselected"


class DenseMixerPlugin(Plugin):
    """Trains routers with the gradient of all experts, or ends the run before training and says why not."""

    Config = DenseMixerConfig
    config: DenseMixerConfig

    def __init__(self, config: DenseMixerConfig) -> None:
        super().__init__(config)
        self._layers: list[Layer] = []
        self._tally: Tally | None = None

    # --- before a model is loaded ---------------------------------------------------------------------------------------------

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse a model without experts where its config tells, and what this is not shown to be right beside."""
        return needs.problems(config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """How many layers and experts, at which cost, and which rules the routers follow."""
        return needs.sentences(needs.of_section(config.model))

    def doctor(self) -> Iterable[Finding]:
        """Whether transformers is one that the tests ran with, and how many types of mixtures it has."""
        from longline_densemixer.upstream import TESTED, mixtures

        yield from (Finding("library", f"untested: {text}", "warning") for text in untested(TESTED))
        yield Finding("mixtures", f"{len(mixtures())} model types of transformers call experts as this plugin needs it")

    @hookimpl
    def pre_model_load(self, run: Run, model_kwargs: dict[str, Any], role: Role) -> None:
        """Refuse a model without experts before its weights are read."""
        mixture = needs.of_config(model_kwargs["config"].to_dict()) if self._applies(run, role) else None
        if mixture and mixture.refusal:
            raise LonglineError(f"not applied: {mixture.refusal}", hint=needs.REMOVE)

    @staticmethod
    def _applies(run: Run, role: Role) -> bool:
        """It changes gradients alone: other commands have none, and a model that is compared with has none either."""
        return run.command == "train" and role == "policy"

    @hookimpl
    def post_model_load(self, run: Run, model: Any, role: Role) -> None:
        """Refuse a model that turned out to have no mixture, or one of another build."""
        if self._applies(run, role):
            from longline_densemixer import layers

            layers.find(model, self.config.pairs, None)

    # --- the trainer ----------------------------------------------------------------------------------------------------------

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Find the rules on the model as it will be trained, with its adapter, and tell them."""
        from longline_densemixer import layers

        self._tally = layers.Tally() if self.config.metrics else None
        self._layers = layers.find(trainer.model, self.config.pairs, self._tally)
        for layer in self._layers:
            layer.attach()
        later = layers.probe(trainer.model, self._layers)
        rows = _rows(self._layers)
        why = (
            f"found at the first step: {later}"
            if later
            else f"on {layers.TOKENS} tokens it gives the weights of the routers themselves"
        )
        run.fact("densemixer", f"{len(self._layers)} layers: {', '.join(dict.fromkeys(row[2] for row in rows))}", why)
        if run.is_main:
            click.echo(
                "\n".join(["densemixer, gradients of all experts for the routers", *(f"  {line}" for line in _lines(rows))])
            )
        run.hook.on_table(run=run, table=Table("densemixer", COLUMNS, tuple(rows), step=0))
        if not any(weight.requires_grad for layer in self._layers for weight in layer.router.parameters()):
            text = (
                "what lies below them gets the gradient of all experts; adapter.modules_to_save: "
                f"[{self._layers[0].router_name}] trains the routers too"
            )
            run.alert("no router is trained", text)

    @hookimpl
    def pre_log(self, logs: dict[str, float]) -> None:
        """Add the share of the gradient that a plain run leaves out."""
        share = self._tally.share() if self._tally and "loss" in logs else None
        if share is not None:
            logs[METRIC] = share

    @hookimpl
    def on_run_end(self) -> None:
        """Leave the model as it was."""
        for layer in self._layers:
            layer.detach()
        self._layers, self._tally = [], None


def _rows(found: Iterable[Layer]) -> list[tuple[str, ...]]:
    """A row for each router class and rule, with how many layers have it."""
    from longline_densemixer.layers import bare

    rules = Counter(
        (
            type(bare(layer.router)).__name__,
            str(layer.kind or "not reached by text alone"),
            str(layer.experts or ""),
            f"{layer.picked} of {layer.experts}" if layer.experts else "",
        )
        for layer in found
    )
    return [(str(count), *rule) for rule, count in rules.items()]


def _lines(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = [COLUMNS, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]

"""The plugin: zeros are found when the model is loaded, and held from its first step until it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import LonglineError, Plugin, Table, hookimpl
from longline_sparsity import needs
from longline_sparsity.config import SparsityConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    import torch

    from longline import Config, Plan, Problem, Run


class SparsityPlugin(Plugin):
    """Masks where the weights of a pruned model are zero; a resumed run finds the same masks, in the model that it began with."""

    Config = SparsityConfig
    config: SparsityConfig

    def __init__(self, config: SparsityConfig) -> None:
        super().__init__(config)
        self._masks: Mapping[str, torch.Tensor] = {}
        self._here: Mapping[str, torch.Tensor] | None = None
        self._trainer: Any = None
        self._end: float | None = None

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse what has no zeros to hold."""
        return needs.problems(self.config, config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """Which zeros are kept, and how."""
        return needs.lines(self.config)

    @hookimpl
    def post_model_load(self, run: Run, model: Any, role: str) -> None:
        """Find the zeros of the model that will be trained, and tell them by kind of module."""
        if role != "policy" or run.command != "train":
            return
        from longline_sparsity import masks, recipe, report

        kept = recipe.read(self.config)
        self._end = kept.end
        self._masks = masks.find(model, self.config, kept.targets)
        counted = report.count(self._masks)
        run.fact("sparsity", *report.told(counted))
        run.hook.on_table(run=run, table=Table("sparsity", report.COLUMNS, tuple(report.rows(counted)), 0))

    @hookimpl
    def post_trainer_create(self, trainer: Any) -> None:
        """Refuse weights that DeepSpeed keeps, by a launcher's word and not the config's."""
        if trainer.is_deepspeed_enabled:
            raise LonglineError(needs.WITHIN_BACKWARD, hint=needs.REMOVE)
        self._trainer = trainer

    @hookimpl
    def pre_gradient_clip(self, trainer: Any) -> None:
        """Nothing is learnt where zeros are: neither the norm nor what an optimizer keeps of gradients has to do with it."""
        from longline_sparsity import masks

        if not self._over():
            masks.hold(trainer.model, self._placed(), gradients=True)

    @hookimpl
    def post_optimizer_step(self, trainer: Any) -> None:
        """Whatever the optimizer and other plugins did: zeros are zeros again."""
        from longline_sparsity import masks

        if not self._over():
            masks.hold(trainer.model, self._placed())

    @hookimpl
    def pre_log(self, logs: MutableMapping[str, float]) -> None:
        """The share of zeros in the weights that have masks; a collective where they are sharded."""
        if "loss" in logs and self._here is not None:
            from longline_sparsity import report

            logs["sparsity/zeros"] = report.share(self._trainer, self._here)

    @hookimpl
    def pre_save(self, run: Run, model: Any) -> None:
        """What is saved has its zeros, also where a plugin put an average in place of the last weights."""
        if self._masks and not self._over():
            from longline_sparsity import masks

            masks.hold(model, self._placed())

    def _over(self) -> bool:
        """Whether the epoch has come at which a recipe lets go of the zeros."""
        return self._end is not None and (self._trainer.state.epoch or 0.0) >= self._end

    def _placed(self) -> Mapping[str, torch.Tensor]:
        """The masks as this rank has the weights, once the trainer has placed and cut them."""
        if self._here is None:
            from longline_sparsity import masks

            self._here = masks.placed(self._masks, self._trainer.model)
        return self._here

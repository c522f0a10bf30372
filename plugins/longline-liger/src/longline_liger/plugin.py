"""The plugin: Liger's kernels on policy and reference, each looked for on the model itself, and off again when the run ends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from longline import Finding, LonglineError, Plugin, Table, hookimpl
from longline.upstream import untested
from longline_liger import interpreter, needs, release, report
from longline_liger.config import LOSSES, LigerConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from longline import Config, Plan, Problem, Run
    from longline.events import Role
    from longline.hookspecs import LossFunction
    from longline_liger.applied import Applied
    from longline_liger.config import Kernels
    from longline_liger.dispatch import Dispatch


class LigerPlugin(Plugin):
    """Applies what the options ask for, and ends the run before training when something of it is not applied."""

    Config = LigerConfig
    config: Kernels

    def __init__(self, config: Kernels) -> None:
        super().__init__(config)
        self._undo = ExitStack()
        self._patches: Any = None
        self._applied: list[Applied] = []
        self._rows: list[report.Row] = []

    @property
    def claims(self) -> frozenset[str]:
        """The loss, when a kernel for it is asked for or may be part of Liger's advice."""
        return frozenset({"loss"} if self.config.may_replace_loss else ())

    # --- before a model is loaded ---------------------------------------------------------------------------------------------

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse what cannot be on this machine, with this method, or beside the trainer's arguments."""
        return needs.problems(self.config, config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """Which kernels are asked for."""
        yield f"replaces modules by Liger's kernels: {', '.join(self.config.wanted()) or 'what Liger advises for the model type'}"

    def doctor(self) -> Iterable[Finding]:
        """Whether Liger and Triton are here, and ones that the tests ran with."""
        from longline_liger.upstream import TESTED

        yield from (Finding("library", f"untested: {text}", "warning") for text in untested(TESTED))
        if interpreter.wanted():
            yield Finding("triton", "TRITON_INTERPRET is set: the kernels run slowly and save no memory", "warning")

    @hookimpl
    def pre_trainer_args(self, run: Run) -> None:
        """Import Liger before data is prepared: what fails there shall fail early."""
        if not self._applies(run):
            return
        needs.require_library()
        if interpreter.wanted():
            self._undo.enter_context(interpreter.complete())
            run.alert("liger", "TRITON_INTERPRET=1: the kernels run in Triton's interpreter, slowly, and save no memory")

    @staticmethod
    def _applies(run: Run) -> bool:
        """Kernels are for training alone: evaluating, generating and merging have the same numbers without, and need no CUDA."""
        return run.command == "train"

    @hookimpl
    def pre_model_load(self, run: Run, model_kwargs: dict[str, Any]) -> None:
        """Refuse a type that Liger does not know, and a kernel that it does not have for the type, before weights are read."""
        if not self._applies(run):
            return
        from longline_liger import dispatch

        config = model_kwargs["config"]
        found = [item for item in map(dispatch.find, (config, config.get_text_config())) if item]
        if not found:
            raise dispatch.refuse_type(config)
        if len({item.model_type for item in found}) == 1:  # else it is the loaded model that tells which it is
            dispatch.choose(self.config, found[0], losses=run.method.cross_entropy)
            dispatch.require_classes(found[0])

    # --- the models -----------------------------------------------------------------------------------------------------------

    @hookimpl
    def post_model_load(self, run: Run, model: Any, role: Role) -> None:
        """Apply the kernels to policy and reference, print what became of each, and stop when something was not applied."""
        if not self._applies(run):
            return
        from longline_liger import applied, dispatch, patches

        found = dispatch.find(model.config)
        if found is None:
            raise dispatch.refuse_type(model.config)
        chosen = dispatch.choose(self.config, found, losses=run.method.cross_entropy)
        dispatch.require_classes(found)
        if "fused_linear_cross_entropy" in chosen:
            needs.refuse_head(model)
        if self._patches is None:
            self._patches = patches.ProcessPatches()
            self._undo.callback(self._patches.undo)
        results = applied.apply(model, chosen, found, self._patches)
        if role == "policy":
            self._applied, self._rows = results, report.rows(results, self.config, list(found.advice))
            if run.is_main:
                click.echo("\n".join(report.lines(found.model_type, self._rows)))
        self._refuse_skipped(found, results)
        if role == "policy":
            names = ", ".join(item.kernel for item in results if item.done)
            run.fact(
                "liger", names, f"found on the model of type {found.model_type}, liger-kernel {release.installed_version()}"
            )

    def _refuse_skipped(self, found: Dispatch, results: Sequence[Applied]) -> None:
        """What was asked for by name must be applied; of Liger's advice the loss, and whatever there is something for."""
        by_name = bool(self.config.wanted())
        skipped = [item for item in results if not item.done and (by_name or item.kernel in LOSSES or item.failed)]
        if not any(item.done for item in results):
            skipped = list(results)
        if skipped or not results:
            texts = [f"{item.kernel}: {item.why}" for item in skipped] or ["the options leave no kernel to apply"]
            works = [f"{item.kernel}: true" for item in results if item.done]
            hint = f"name those that are: plugins.liger: {{{', '.join(works)}}}" if works else needs.REMOVE
            raise LonglineError(f"not applied to {found.model_type}: {'; '.join(texts)}", hint=hint)

    @hookimpl
    def post_adapter_create(self, model: Any) -> None:
        """Refuse an adapter on the output head, which the fused loss would leave out."""
        if self._runs("fused_linear_cross_entropy"):
            needs.refuse_head(model.get_base_model())

    def _runs(self, kernel: str) -> bool:
        return any(item.kernel == kernel and item.done for item in self._applied)

    # --- the trainer ----------------------------------------------------------------------------------------------------------

    @hookimpl
    def provide_loss(self, model: Any) -> LossFunction | None:
        """Answer with the loss that a kernel computes.

        Fused, it is the trainer's own inside the model's forward; core's needs the head's output. A kernel for the cross entropy
        is in torch's place, and core's loss of the trained tokens shall call it.
        """
        if self._runs("cross_entropy"):
            from longline.loss.head import trained_tokens_loss

            return trained_tokens_loss(model, overwrite=False)
        if not self._runs("fused_linear_cross_entropy"):
            return None
        from longline_liger.loss import fused_loss

        return fused_loss(model, token_scaling=bool(self.config.use_token_scaling))

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Look once more: adapters, other plugins and the trainer itself had their hands on the model. Then raise the table."""
        from longline_liger import applied

        for item in self._applied:
            lost = applied.lost(trainer.model, item)
            if lost:
                text = f"{item.kernel} was applied, and something replaced it again in {', '.join(lost)}"
                raise LonglineError(text, hint="remove the other plugin that changes the model, or leave this kernel out")
        run.hook.on_table(run=run, table=Table("liger", report.COLUMNS, tuple(self._rows), step=0))

    @hookimpl
    def on_run_end(self) -> None:
        """Put back what was replaced for the whole process."""
        self._undo.close()
        self._undo, self._patches, self._applied, self._rows = ExitStack(), None, [], []

"""The plugin: the model is scanned if nobody has, the chosen matrices are trained, and the rest stays as it is to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longline import Finding, LonglineError, Plugin, Table, hookimpl
from longline.upstream import untested
from longline_spectrum import choice
from longline_spectrum.config import SpectrumConfig
from longline_spectrum.upstream import TESTED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longline import Config, Plan, Problem, Run
    from longline.events import Role
    from longline_spectrum.freezing import Trained
    from longline_spectrum.scan import Scan

COLUMNS = ("kind", "trained", "layers", "weights", "signal to noise")


class SpectrumPlugin(Plugin):
    """Freezes what holds little signal."""

    Config = SpectrumConfig
    config: SpectrumConfig

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__(config)
        self._scan: Scan | None = None
        self._trained: Trained | None = None

    # --- before a run ---------------------------------------------------------------------------------------------------------

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse what cannot be chosen from, and what would choose nothing or everything."""
        from longline_spectrum import needs

        return needs.problems(self.config, config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """Which layers are trained and why, or that the model will be scanned."""
        from longline_spectrum import needs

        return needs.lines(self.config, config, plan)

    def doctor(self) -> Iterable[Finding]:
        """Whether the libraries are ones that the tests ran with, and where scans are kept."""
        from longline_spectrum import kept

        yield from (Finding("library", f"untested: {text}", "warning") for text in untested(TESTED))
        yield Finding("scans", f"{len(list(kept.folder().glob('*.json')))} kept in {kept.folder()}")

    @hookimpl
    def pre_trainer_args(self, run: Run) -> None:
        """Scan before data is prepared: what cannot be read is told early. Ranks that want the same scan wait for the first."""
        if run.command != "train":
            return
        from longline_spectrum import kept, needs

        sources = needs.Sources(self.config, run.config)
        self._scan = sources.kept
        if self._scan is None and sources.checkpoint is not None:
            from longline_spectrum.progress import Progress

            with Progress(sources.checkpoint, quiet=not run.is_main) as progress:
                self._scan = kept.make(sources.checkpoint, progress)

    # --- the model ------------------------------------------------------------------------------------------------------------

    @hookimpl
    def post_model_load(self, run: Run, model: Any, role: Role) -> None:
        """Freeze all but what is chosen; a reference is frozen already."""
        if run.command != "train" or role != "policy" or self._scan is None:
            return
        from longline_spectrum.freezing import freeze

        options = self.config
        picked = choice.pick(self._scan, options.top_fraction, options.threshold, options.kinds)
        units = [row.unit for kind in picked for row in kind.trained]
        self._trained = freeze(model, self._scan, units, options.always, head=run.output == "score")
        trained = self._trained
        if run.plan.checkpointing:
            model.enable_input_require_grads()  # a frozen embedding cuts the graph that recomputation needs
        share = choice.share(trained.count, trained.total)
        run.fact("spectrum", f"trains {share}", f"{options.top_fraction:g} of the layers of each kind, by {self._scan.model}")
        if run.is_main:
            for kind in picked:
                click.echo(f"  {kind.name}: {kind.trains}")

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Look once more, as others had their hands on the model; then show what is trained as a table."""
        if self._scan is None or self._trained is None:
            return
        found = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
        apart = found ^ set(self._trained.names)
        if apart:
            text = f"{len(apart)} weights are frozen or trained otherwise than was chosen, {min(apart)} among them"
            raise LonglineError(text, hint="remove the other plugin that freezes or trains weights")
        options = self.config
        picked = choice.pick(self._scan, options.top_fraction, options.threshold, options.kinds)
        rows = tuple((k.name, f"{k.count} of {len(k.rows)}", k.layers, k.weights, k.why(options.threshold)) for k in picked)
        run.hook.on_table(run=run, table=Table("spectrum", COLUMNS, rows, step=0))

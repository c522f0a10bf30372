"""The plugin: times the trainer of a run, adds what it found to the log, and keeps it in the run folder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from longline import LonglineError, Plugin, Problem, Table, Timing, hookimpl
from longline_profiling.config import ProfilingConfig
from longline_profiling.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from longline import Config, Plan, Run, Summary
    from longline.events import Status

logger = logging.getLogger("longline_profiling")
LONGER = "lower plugins.profiling.steps.start, or train longer"


class ProfilingPlugin(Plugin):
    """Times every rank; the main one logs, tells and writes. It measures the trainer and changes nothing in it."""

    Config = ProfilingConfig
    files = frozenset({"profile"})
    config: ProfilingConfig

    def __init__(self, config: ProfilingConfig) -> None:
        super().__init__(config)
        self.session: Session | None = None
        self._told: Timing | None = None

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse a window that begins after `trainer.max_steps`."""
        text = self._late(plan.max_steps if plan.max_steps > 0 else None)
        return [Problem(text, path="plugins.profiling.steps.start", hint=LONGER)] if text else []

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """What is timed, and which steps are recorded."""
        window = self.config.steps
        yield "times the parts of a step" if self.config.enabled else "is switched off"
        if self.config.enabled and window is not None:
            yield f"records steps {window.start} to {window.last} with torch.profiler"

    def _late(self, steps: int | None) -> str | None:
        """Why a run of so many steps, if that is known, would write no trace."""
        window = self.config.steps if self.config.enabled else None
        if window is None or steps is None or window.start <= steps:
            return None
        return f"steps.start is {window.start}, and this run makes {steps} steps: there would be no trace"

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """From here on decorated code is timed, also that which prepares data and model."""
        if self.config.enabled:
            self.session = Session(self.config, tell_timing=self._timing_teller(run), tell=run.alert)
            self.session.open()

    def _timing_teller(self, run: Run) -> Callable[[Timing], None] | None:
        """What raises on_timing; None when nobody but this plugin would hear it."""
        own = {plugin.name for plugin in run.plugins if plugin.instance is self}
        if not run.is_main or not set(run.hook.on_timing.plugins) - own:
            return None

        def tell(timing: Timing) -> None:
            self._told = timing
            run.hook.on_timing(run=run, timing=timing)

        return tell

    @hookimpl
    def on_timing(self, timing: Timing) -> None:
        """Count what other plugins measured like what this one did; what it told itself, it has counted already."""
        if self.session is not None and timing is not self._told:
            self.session.recorder.add(timing.name, timing.parent, timing.seconds, timing.failed, own=False)

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Time the trainer's methods; what the options ask for and this run cannot give is refused here."""
        if self.session is None:
            return
        from longline_profiling.store import FOLDER

        self._refuse_late_window(run)
        try:
            self.session.watch(trainer, run.output_dir / FOLDER, run.method)
        except AttributeError as error:
            if error.obj is not trainer:
                raise
            raise LonglineError(str(error), hint="correct plugins.profiling.methods") from None
        if run.is_main and self.session.no_mfu and self.config.mfu:
            logger.info("profiling: no MFU: %s", self.session.no_mfu)

    def _refuse_late_window(self, run: Run) -> None:
        """Where epochs decide, the number of steps is known when the data is there."""
        if text := self._late(run.plan.steps):
            raise LonglineError(text, hint=LONGER)
        window, steps = self.config.steps, run.plan.steps
        if window is not None and steps is not None and window.last > steps:
            run.alert("the window of profiling is cut", f"it goes to step {window.last}, and the run to step {steps}", "info")

    @hookimpl
    def pre_log(self, run: Run, logs: dict[str, float], step: int) -> None:
        """Add mean times, throughput and MFU; every rank takes part, since their figures are gathered."""
        if self.session is not None:
            found = self.session.metrics(logs, step)
            if run.is_main:
                logs.update(found)

    @hookimpl
    def on_train_end(self, run: Run) -> None:
        """Raise the figures as a table, while trackers still take one."""
        if self.session is not None and run.is_main:
            from longline_profiling import report

            name, columns, rows = report.table_event(self.session)
            run.hook.on_table(run=run, table=Table(name, columns, rows, step=run.summary.steps))

    @hookimpl
    def on_error(self) -> None:
        """Write a trace that is being recorded, while others still hear where it is."""
        if self.session is not None:
            self.session.end_training()

    @hookimpl
    def on_run_end(self, run: Run, status: Status, summary: Summary) -> None:
        """Give the trainer back as it was, write the figures and print them."""
        session, self.session = self.session, None
        if session is None:
            return
        session.close()
        if run.is_main and session.rows():
            from longline_profiling import report, store

            entry = report.entry(session, run, status, summary)
            store.add(run.output_dir, entry, resumed=(session.first_step or 1) > 1)
            report.show([entry])

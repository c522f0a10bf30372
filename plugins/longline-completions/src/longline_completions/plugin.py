"""The plugin: completions in, tables out. What it does is said in `recorder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import LonglineError, Plugin, hookimpl
from longline_completions import needs
from longline_completions.config import CompletionsConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longline import Completions, Config, Plan, Problem, Run
    from longline_completions.recorder import Recorder


class CompletionsPlugin(Plugin):
    """Raises `on_table` every `every` steps and when training ends, and keeps each table as a Parquet file; on the main rank."""

    Config = CompletionsConfig
    files = frozenset({"completions"})
    config: CompletionsConfig

    def __init__(self, config: CompletionsConfig) -> None:
        super().__init__(config)
        self._recorder: Recorder | None = None

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse a method without completions, and columns or a score that its rows do not have."""
        return needs.problems(self.config, config, plan)

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """How often there is a table, and how large."""
        own = self.config
        yield f"makes a table of completions every {own.every} steps: {own.max_rows} rows at most, of more the {own.sample}"

    def _of(self, run: Run) -> Recorder:
        """The state of this run; that of an earlier one is forgotten."""
        if self._recorder is None or self._recorder.run is not run:
            from longline_completions.recorder import Recorder

            self._recorder = Recorder(run, self.config)
        return self._recorder

    @hookimpl
    def post_trainer_create(self, run: Run, trainer: Any) -> None:
        """Look at the columns once more: only now is it known which ones other plugins and the data bring."""
        rewards = trainer.reward_func_names if run.method.draws_answers else ()
        cells = [column.name for column in run.columns if column.align == "row" and column.width is None]
        for problem in needs.unknown(self.config, run.method, (*rewards, *cells)):
            raise LonglineError(f"columns: {problem.message}", hint=problem.hint)

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """After a resume, forget the tables of steps that are made again."""
        if run.is_main:
            self._of(run).begin(trainer.state.global_step)

    @hookimpl
    def on_completions(self, run: Run, completions: Completions, step: int) -> None:
        """Take in the rows of a step."""
        self._of(run).add(completions, step)

    @hookimpl
    def on_step_end(self, run: Run, step: int) -> None:
        """Make a table when it is time for one."""
        self._of(run).step_end(step)

    @hookimpl
    def on_checkpoint(self, run: Run) -> None:
        """Keep what no table has yet, for a run that goes on from this checkpoint."""
        self._of(run).checkpoint()

    # --- the end: before on_run_end, in which trackers close, whatever the order of plugins --------------------------------------

    @hookimpl
    def on_train_end(self, run: Run) -> None:
        """Make the last table, also when a signal stopped the run."""
        self._finish(run)

    @hookimpl
    def on_error(self, run: Run) -> None:
        """Make the last table of a run that failed."""
        self._finish(run)

    @hookimpl
    def on_run_end(self, run: Run) -> None:
        """Make the last table if neither of the above came."""
        self._finish(run)
        self._recorder = None

    def _finish(self, run: Run) -> None:
        if self._recorder is not None and self._recorder.run is run:
            self._recorder.finish()

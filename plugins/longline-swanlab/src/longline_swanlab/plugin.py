"""The plugin: hooks hand everything to a process of its own, which talks to SwanLab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline import Alert, Finding, LonglineError, Plugin, Problem, Summary, Table, hookimpl
from longline.plugins.network import reachable
from longline.upstream import untested
from longline_swanlab import content, memory, variables
from longline_swanlab.config import SwanLabConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from longline import Config, Plan, Run
    from longline.events import Status
    from longline_swanlab.beside import Beside
    from longline_swanlab.session import Session

STATES = {"completed": "success", "failed": "crashed", "interrupted": "aborted"}
TELL_AFTER = 100
"""Steps after which other trackers are named; in a shorter run they are at its end."""


class SwanLabPlugin(Plugin):
    """Shows a run in SwanLab; only the main rank talks."""

    Config = SwanLabConfig
    files = frozenset({memory.FILE})
    tracker = True
    config: SwanLabConfig

    def __init__(self, config: SwanLabConfig) -> None:
        super().__init__(config)
        self._begin()

    def check(self, config: Config, plan: Plan) -> Iterable[Problem]:
        """Refuse a mode that cannot work here: no key, no dashboard."""
        if os.environ.get("RANK", "0") == "0":  # another rank may be on a machine that has no key
            variables.refuse_what_cannot_start(self.config, os.environ)
        return ()

    def plan(self, config: Config, plan: Plan) -> Iterable[str]:
        """Where the run is shown."""
        mode = variables.mode_of(self.config, os.environ)
        yield f"shows the run in SwanLab, project {self.config.project}, mode {mode}" if mode != "disabled" else "is disabled"

    def doctor(self) -> Iterable[Finding]:
        """Whether swanlab is one that the tests ran with, and its server can be reached."""
        from longline_swanlab.upstream import TESTED

        mode = variables.mode_of(self.config, os.environ)
        yield Finding("mode", mode)
        yield from (Finding("library", f"untested: {text}", "warning") for text in untested(TESTED))
        if mode == "online":
            yield reachable("server", variables.server_of(self.config, os.environ))

    def _begin(self) -> None:
        """Forget everything of an earlier run."""
        self._session: Session | None = None
        self._beside: Beside | None = None
        self._name_others_at = 0
        self._error: str | None = None

    # --- the start --------------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Keep the key of the environment out of all that is written."""
        self._begin()
        key = variables.first_set(os.environ, variables.API_KEY)
        if key:
            run.hide(key)

    @hookimpl
    def pre_trainer_args(self, run: Run) -> None:
        """Start the process; it gets ready while libraries are imported. Who only looks at data or a model needs none."""
        if run.command == "train" and run.is_main and variables.mode_of(self.config, os.environ) != "disabled":
            from longline_swanlab.session import Session

            self._session = Session(run, self.config)

    @hookimpl
    def pre_tokenizer_load(self, run: Run) -> None:
        """Wait until SwanLab has the run, before anything is loaded; raises LonglineError when it cannot have it."""
        if self._session is not None:
            self._session.ready(run)

    # --- while it trains --------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """Send what is known of the plan now, and look for other trackers."""
        if self._session is None:
            return
        from longline_swanlab.beside import Beside

        self._session.send(lambda: {"kind": "config", "values": content.run_config(run)})
        self._beside = Beside(self)
        self._beside.find(run, trainer)
        self._name_others_at = trainer.state.global_step + TELL_AFTER

    @hookimpl
    def on_log(self, run: Run, logs: Mapping[str, float], step: int) -> None:
        """Send every number, and tell what the process had to tell."""
        if self._session is None:
            return
        message = content.log_message(logs, step)
        if message is not None:
            self._session.send(lambda: message)
        news = self._session.news()
        if news:
            run.alert("SwanLab", f"{news}; training goes on, and log.jsonl is complete")
        if self._name_others_at and step >= self._name_others_at:
            self._name_others(run)

    @hookimpl
    def on_table(self, run: Run, table: Table) -> None:
        """Send a table."""
        if self._session is not None:
            self._session.send(lambda: content.table_message(table, run.mask), table=True)

    @hookimpl
    def on_alert(self, run: Run, alert: Alert) -> None:
        """Send an alert as a text."""
        if self._session is not None:
            step = alert.step if alert.step is not None else run.summary.steps
            self._session.send(lambda: content.alert_message(alert, step, run.mask))

    @hookimpl
    def on_train_end(self) -> None:
        """Stop measuring."""
        if self._beside is not None:
            self._beside.stop()

    @hookimpl
    def on_save(self, run: Run, path: Path) -> None:
        """Upload the final model if that is wanted."""
        if self._session is not None and self.config.log_model:
            model = {"kind": "model", "path": str(path.absolute()), "base": str(run.output_dir.absolute())}
            self._session.send(lambda: model)

    def _name_others(self, run: Run) -> None:
        """Say once what other trackers cost."""
        self._name_others_at = 0
        own = next((plugin.name for plugin in run.plugins if plugin.instance is self), "swanlab")
        text = self._beside.told(run, own) if self._beside else ""
        if text:
            run.alert("another tracker runs beside SwanLab", text, "info")

    # --- the end ----------------------------------------------------------------------------------------------------------------

    @hookimpl
    def on_error(self, run: Run, error: BaseException) -> None:
        """Keep what stopped the run for its last message."""
        text = error.message if isinstance(error, LonglineError) else f"{type(error).__name__}: {error}"
        self._error = run.mask(f"{run.phase}: {text}")

    @hookimpl
    def on_run_end(self, run: Run, status: Status, summary: Summary) -> None:
        """Finish the run in SwanLab with the state that it has, and say what did not get there."""
        if self._session is None:
            return
        if self._name_others_at:
            self._name_others(run)
        session, self._session = self._session, None
        error = self._error if status == "failed" else None
        if status == "interrupted":
            error = f"stopped by a signal after step {summary.steps}"
        lost = session.close({"kind": "finish", "state": STATES[status], "error": error}, run.output_dir)
        if lost:
            run.alert("SwanLab is not complete", lost)

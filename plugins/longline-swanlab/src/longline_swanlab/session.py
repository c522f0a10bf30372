"""One run as SwanLab has it: begun or continued, online or kept for later, and what of it did not arrive."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline import LonglineError
from longline.text import one_line
from longline_swanlab import content, variables
from longline_swanlab.courier import LAUNCH, Courier, Report
from longline_swanlab.memory import FILE, Memory, recall
from longline_swanlab.variables import FOUR_REMEDIES, NO_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longline import Run
    from longline_swanlab.config import SwanLabConfig
    from longline_swanlab.courier import Make

RESUME = ("SWANLAB_RUN_RESUME", "SWANLAB_RESUME")
REPAIR = "pip install --force-reinstall swanlab"
HINTS = {
    "no key": FOUR_REMEDIES,
    "key": FOUR_REMEDIES,
    "dashboard": f"{variables.EXTRA}; or `mode: offline`",
    "": "look at the options under swanlab:, or choose `mode: offline`",
}
ANSWERS = {"must": "must", "never": "never", "false": "never", "no": "never", "0": "never"}


class Session:
    """Starts the recorder at once; `ready` waits for it.

    Raises LonglineError when the run is to go on with an experiment that is not there.
    """

    def __init__(self, run: Run, config: SwanLabConfig) -> None:
        self._config = config
        self._run = run
        self._mode = variables.mode_of(config, os.environ)
        self._memory: Memory | None = None
        self._courier = Courier(config.timeout)
        self._patience = config.timeout if self._mode == "online" else LAUNCH  # only a server is worth less than that
        self._fell_back = ""
        self._told = ""
        self._before = self._earlier(run)
        self._begin(self._mode)

    def _earlier(self, run: Run) -> Memory | None:
        """The experiment to go on with, if this run is a resumed one."""
        policy = self._config.resume or ANSWERS.get((variables.first_set(os.environ, RESUME) or "").lower(), "allow")
        # Checkpoints are there only when the run is resumed: a new run refuses such a folder, and --overwrite deletes them.
        before = recall(run.output_dir) if run.can_resume() and policy != "never" else None
        if before is not None and "local" in (before.mode, self._mode) and before.mode != self._mode:
            self._told = f"the run so far was tracked in mode {before.mode}; mode {self._mode} begins a new experiment"
            before = None
        if before is not None and before.mode == "local" and not (Path(before.folder) / "logs").is_dir():
            self._told = f"the experiment so far, {before.folder}, is not there any more; a new one begins"
            before = None
        if self._config.resume == "must" and before is None and self._config.id is None:
            why = self._told or f"no {run.output_dir / FILE} of a resumed run"
            hint = "resume: allow begins a new one where there is none; id: names one that was begun elsewhere"
            raise LonglineError(f"resume: must, and there is no experiment to go on with: {why}", hint=hint)
        return before

    def _begin(self, mode: str) -> None:
        run, before = self._run, self._before
        run_id, resume = self._config.id, self._config.resume
        if before is not None:
            run_id, resume = run_id or before.id, resume or "allow"
        elif run_id is not None:
            resume = resume or "allow"
        elif resume == "must":
            resume = None
        hello = {
            "settings": content.settings(self._config, mode=mode, run_id=run_id, resume=resume),
            "default_name": one_line(run.output_dir.absolute().name),
            "config": content.run_config(run),
            "continues": before.folder if before is not None and mode == "local" else None,
            "alerts": before.alerts if before is not None else -1,
            "timeout": self._config.timeout,
            "pid": os.getpid(),
        }
        self._courier.launch(hello, content.command(run.mask))

    # --- the start --------------------------------------------------------------------------------------------------------------

    def ready(self, run: Run) -> None:
        """Wait for the run in SwanLab, `timeout` seconds at most; again after that it does nothing.

        A server that cannot be reached is no reason not to train: the run is kept on this machine. Raises LonglineError when
        SwanLab refuses it.
        """
        if self._memory is not None:
            return
        answer = self._courier.verdict(self._patience)
        if self._mode == "online" and (answer is None or answer["kind"] == "unreachable"):
            self._fell_back = answer["reason"] if answer else f"no answer within {self._config.timeout:g} seconds"
            self._courier.end()
            self._patience = LAUNCH
            self._begin("offline")
            answer = self._courier.verdict(self._patience)
        if answer is None or answer["kind"] != "started":
            self._courier.end()
            raise _refusal(answer)
        self._memory = Memory.of(answer, self._before)
        self._memory.save(run.output_dir)
        self._courier.open()
        if self._fell_back:
            text = f"cannot be reached ({self._fell_back}); the run is kept in {self._memory.folder}"
            run.alert("SwanLab", f"{text}, upload it later: {_sync(self._memory)}")
            return
        if self._before is not None and self._before.mode == "offline" and self._memory.mode == "online":
            commands = " && ".join(_sync(self._before, part, again=True) for part in self._before.parts)
            self._told = f"the run so far is on this machine alone; upload it: {commands}"
        if self._told:
            run.alert("SwanLab", self._told, "info")
        _show(self._memory)

    # --- while it trains --------------------------------------------------------------------------------------------------------

    def send(self, make: Make, *, table: bool = False) -> None:
        """Queue a message; a table lets others go first."""
        self._courier.send(make, table=table)

    def news(self) -> str:
        """What went wrong since this was last asked."""
        return self._courier.news() if self._memory is not None else ""

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def close(self, finish: Mapping[str, Any], output_dir: Path) -> str:
        """Finish the run; returns what did not get to SwanLab and what to do, or an empty text."""
        memory = self._memory
        if memory is None:  # the run ended before SwanLab had it
            answer = self._courier.verdict(self._patience)
            if answer is not None and answer["kind"] == "started":
                self._courier.open()
                self._courier.close(finish)
            self._courier.end()
            return ""
        report = self._courier.close(finish)
        memory.save(output_dir, alerts=report.alerts if report.alerts >= 0 else None)
        if self._fell_back:
            return f"it could not be reached ({self._fell_back}); upload the run: {_sync(memory)}"
        if not report.complete:
            return _lost(report, memory)
        _show(memory)
        return ""


def _show(memory: Memory) -> None:
    """Print where the run can be seen; this is news for the person at the terminal only, so no alert."""
    where = memory.url or (f"swanlab watch {shlex.quote(memory.log_dir)}" if memory.mode == "local" else _sync(memory))
    click.echo(f"swanlab: {memory.project} / {memory.name}: {where}")


def _sync(memory: Memory, part: str | None = None, *, again: bool = False) -> str:
    """The command that uploads what this machine has; `again` if the server has later steps, which would keep earlier ones out."""
    gaps = " --start-step 0" if again else ""
    return f"swanlab sync {shlex.quote(part or memory.parts[-1])} --id {memory.id}{gaps}"


def _lost(report: Report, memory: Memory) -> str:
    """What did not arrive, why, and what to do."""
    parts = []
    if report.died:
        parts.append(f"the process that talks to it ended: {report.died}")
    if report.requests:
        parts.append(f"it refused {report.requests} requests with {report.values} values ({report.reason})")
    if report.failed:
        often, which = ("once", "") if report.failed == 1 else (f"{report.failed} times", ", first")
        parts.append(f"{often} it could not do what it was told{which}: {report.failure}")
    if report.pending:
        parts.append(f"{report.pending} records had not arrived when the run waited no longer")
    if report.dropped:
        parts.append(f"{report.dropped} events were dropped on this machine")
    whole = not (report.died or report.failed)  # on this machine, so that it can be uploaded
    way_out = f"; upload what is missing: {_sync(memory, again=True)}" if memory.mode == "online" and whole else ""
    return f"{'; '.join(parts)}; log.jsonl is complete{way_out}"


def _refusal(answer: Mapping[str, Any] | None) -> LonglineError:
    """The error for an answer that is no start."""
    if answer is None:
        return LonglineError(f"swanlab did not start within {LAUNCH:g} seconds", hint="look at what the machine is busy with")
    if answer["kind"] == "died":
        return LonglineError(f"the process that talks to SwanLab ended: {answer['reason']}", hint=REPAIR)
    reason = NO_KEY if answer["about"] == "no key" else answer["reason"]
    return LonglineError(reason, hint=HINTS[answer["about"]])

"""The training's side of the recorder process: a queue, and two threads that carry messages to it and answers back."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    Message = Mapping[str, Any]
    Make = Callable[[], Message]

MAX_QUEUE = 20_000
"""How many messages may wait for the recorder; beyond that new ones are dropped and counted."""
MAX_TABLES = 1_000
"""How many tables may wait, which are large."""
ON_THEIR_WAY = 8
"""How many tables the recorder has at a time: what is logged after them waits until they are written."""
LAUNCH = 60.0
"""Seconds that a busy machine may take to start a process and to import swanlab."""
PAUSE = 0.25
"""Seconds between two looks into the queue."""
GRACE = 5.0
"""Seconds that the recorder may be silent longer than it was told to wait, before it is ended."""
NOT_FOR_THE_RECORDER = ("SWANLAB_DEBUG",)
"""With it swanlab writes the stored key into its log."""


@dataclass(frozen=True, slots=True)
class Report:
    """What did not get to SwanLab, and why. `values` were refused by the server, `pending` records were still to be uploaded,
    `failed` times swanlab could not do what it was told, `dropped` messages never got to the recorder; `died` says how the
    recorder ended if it did by itself.
    """

    pending: int = 0
    values: int = 0
    requests: int = 0
    reason: str = ""
    dropped: int = 0
    died: str = ""
    alerts: int = -1
    failed: int = 0
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether everything arrived."""
        return not (self.pending or self.requests or self.dropped or self.died or self.failed)


@dataclass(eq=False)
class _Process:
    popen: subprocess.Popen[str]
    stdin: IO[str]
    stdout: IO[str]
    errors: IO[str]
    answers: queue.Queue[Message | None] = field(default_factory=queue.Queue)
    tables: int = 0
    """How many it was sent; `taken` of them it has written."""
    taken: int = 0


class Courier:
    """Takes messages at once; nothing here raises into the training or makes it wait, but `verdict` and `close`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waiting: deque[Make] = deque()
        self._tables: deque[Make] = deque()
        self._finish: Message | None = None
        self._ending = threading.Event()
        self._process: _Process | None = None
        self._died = ""
        self._dropped = 0

    # --- the start --------------------------------------------------------------------------------------------------------------

    def launch(self, hello: Message, command: list[str]) -> None:
        """Start the recorder with its first message; `command` is what swanlab shows as the command of the run."""
        arguments = [sys.executable, "-P", "-m", "longline_swanlab.recorder", "--", *command]
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_THE_RECORDER}
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the process
        popen = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**environment, "OMP_NUM_THREADS": "1"},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the training, which then says how the run ended
        )
        self._process = process = _Process(popen, cast("IO[str]", popen.stdin), cast("IO[str]", popen.stdout), errors)
        threading.Thread(target=_read, args=(process,), name="longline-swanlab-answers", daemon=True).start()
        self._write(process, hello)

    def verdict(self, patience: float) -> Message | None:
        """Wait for the answer to the first message, `patience` seconds after swanlab was asked; None when there is none by then.

        An answer of kind `died` says that the recorder ended without one.
        """
        process = self._process
        if process is None:
            return None
        answer = self._answer(process, LAUNCH)
        return self._answer(process, patience) if answer is not None and answer["kind"] == "awake" else answer

    def _answer(self, process: _Process, patience: float) -> Message | None:
        try:
            answer = process.answers.get(timeout=patience)
        except queue.Empty:
            return None
        return answer or {"kind": "died", "reason": _last_words(process)}

    def open(self) -> None:
        """Begin to carry messages; those that came before are first."""
        threading.Thread(target=self._carry, args=(self._process,), name="longline-swanlab", daemon=True).start()

    def end(self) -> None:
        """End a recorder that is of no use, at once."""
        process, self._process = self._process, None
        if process is not None:
            _end(process, patience=0.0)

    # --- while training ---------------------------------------------------------------------------------------------------------

    def send(self, make: Make, *, table: bool = False) -> None:
        """Queue a message; `make` builds it in the thread. What is too much is dropped and counted. Tables let others go first.

        Nobody is woken: that would cost a step more than all the rest.
        """
        line, most = (self._tables, MAX_TABLES) if table else (self._waiting, MAX_QUEUE)
        if len(line) >= most or self._died:
            self._dropped += 1
        else:
            line.append(make)

    def news(self) -> str:
        """What went wrong since the last time this was asked, or an empty text; never waits."""
        process = self._process
        if process is None or process.answers.empty() or self._died:
            return ""
        answer = process.answers.get_nowait()
        if answer is None:
            self._died = _last_words(process)
            return f"the process that talks to SwanLab ended: {self._died}"
        if answer["kind"] != "trouble":
            return ""
        what = "refuses what it is sent" if answer["about"] == "refused" else "cannot do what it is told"
        return f"SwanLab {what}: {answer['reason']}"

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def close(self, finish: Message) -> Report:
        """Let the recorder finish the run, and wait as long as it makes progress."""
        process = self._process
        if process is None:
            return Report()
        self._finish = finish
        self._ending.set()
        answer = self._last_answer(process)
        died = self._died or (_last_words(process) if answer is None else "")
        _end(process, patience=GRACE if answer else 0.0)
        self._process = None
        dropped = self._dropped + len(self._waiting) + len(self._tables)
        if answer is None:
            return Report(dropped=dropped, died=died)
        facts = {name: answer[name] for name in ("pending", "requests", "reason", "alerts", "failed", "failure")}
        return Report(**facts, values=answer["refused"], dropped=dropped)

    def _last_answer(self, process: _Process) -> Message | None:
        """Wait as long as there is progress: an answer, a table that is written, a message that goes on its way."""
        seen, since = self._progress(process), monotonic()
        while not self._died:
            answer: Message | None = {"kind": "progress"}
            with suppress(queue.Empty):
                answer = process.answers.get(timeout=1.0)
                since = monotonic()
            if answer is None or answer["kind"] == "done":
                return answer
            now = self._progress(process)
            if now != seen:
                seen, since = now, monotonic()
            elif monotonic() - since > self._timeout + GRACE:
                self._died = f"it gave no sign for {self._timeout + GRACE:g} seconds"
        return None

    def _progress(self, process: _Process) -> tuple[int, int, int]:
        return len(self._waiting), len(self._tables), process.taken

    # --- in the threads ---------------------------------------------------------------------------------------------------------

    def _carry(self, process: _Process) -> None:
        while True:
            last = self._ending.wait(PAUSE)
            while (make := self._next(process, last=last)) is not None:
                if not self._pass_on(process, make):
                    return
            if last and self._finish is not None:
                self._write(process, self._finish)
                return

    def _next(self, process: _Process, *, last: bool) -> Make | None:
        """What goes next: all else before a table, of which the recorder has a few at a time, and in the end all that there are."""
        if self._waiting:
            return self._waiting.popleft()
        if self._tables and (last or process.tables - process.taken < ON_THEIR_WAY):
            process.tables += 1
            return self._tables.popleft()
        return None

    def _pass_on(self, process: _Process, make: Make) -> bool:
        """Build one message and write it; False when nobody reads any more."""
        try:
            message = make()
        except Exception:  # the thread must live on: the next message may be well
            self._dropped += 1
            return True
        return self._write(process, message)

    def _write(self, process: _Process, message: Message) -> bool:
        try:
            process.stdin.write(json.dumps(message, default=str) + "\n")
            process.stdin.flush()
        except (OSError, ValueError):
            self._dropped += 1
            return False
        return True


def _read(process: _Process) -> None:
    """Pass answers on; None says that there will be no more."""
    with suppress(ValueError):  # closed, or cut in the middle of a line
        for line in process.stdout:
            answer = json.loads(line)
            if answer["kind"] == "took":
                process.taken += 1
            else:
                process.answers.put(answer)
    process.answers.put(None)


def _last_words(process: _Process) -> str:
    """How a process ended that should not have: the last line of its errors and its exit status."""
    try:
        status: int | None = process.popen.wait(2)
    except subprocess.TimeoutExpired:
        status = None
    process.errors.seek(0)
    lines = [line.strip() for line in process.errors.read().splitlines() if line.strip()]
    how = "still running" if status is None else f"exit status {status}"
    return f"{lines[-1]} ({how})" if lines else how


def _end(process: _Process, patience: float) -> None:
    """Wait for the process to end by itself, then end it."""
    try:
        process.popen.wait(patience)
    except subprocess.TimeoutExpired:
        process.popen.kill()
        process.popen.wait()
    for stream in (process.stdin, process.stdout, process.errors):
        with suppress(OSError, ValueError):
            stream.close()

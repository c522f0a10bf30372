"""The process that talks to SwanLab: `python -m longline_swanlab.recorder`, started by the plugin.

It is a process of its own because swanlab starts threads, waits for the network, takes over SIGINT, sys.excepthook and the
terminal, and can hang at exit. Here none of that touches the training. Messages come in as JSON, one a line; the first holds
everything that `swanlab.init` needs, `finish` is the last. Answers go out the same way:

- `awake`: swanlab is imported, and is asked now; `started`: id, name, folder, url, mode;
- `refused`: nothing can come of this, with the reason; `unreachable`: the server cannot be asked now;
- `trouble`: the server refuses what is sent; `progress`: uploads go on; `done`: what did not arrive.

When the messages end without `finish`, the training process is gone, and the run is finished as crashed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from longline_swanlab import upstream
from longline_swanlab.starting import RefusedError, UnreachableError, ask_for_entry, begin, count_the_trainer, resolved
from longline_swanlab.text import flat, rows_as_text

Message = Mapping[str, Any]

ITEMS = 108
"""How many items swanlab keeps of one key at one step; it drops what is beyond without telling the run."""
POLL = 0.2
"""Seconds between two looks at the uploads while a run is being finished."""


def main() -> int:
    """Read messages until there are none; the exit status is 0 whatever SwanLab does."""
    answers = _only_for_answers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)  # where training takes every core, it comes first
    messages = _messages(sys.stdin)
    recorder = Recorder(answers)
    try:
        recorder.start(next(messages))
    except RefusedError as error:
        recorder.answer("refused", reason=str(error), about=error.about)
        return 0
    except UnreachableError as error:
        recorder.answer("unreachable", reason=str(error))
        return 0
    for message in messages:
        recorder.take(message)
        if message["kind"] == "finish":
            return 0
    recorder.take({"kind": "finish", "state": "crashed", "error": "the training process ended without a word"})
    return 0


def _only_for_answers() -> IO[str]:
    """Keep the real stdout for answers; what swanlab and its libraries print goes nowhere, it is in debug.log too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return answers


def _messages(lines: IO[str]) -> Iterator[Message]:
    for line in lines:
        yield json.loads(line)


class Recorder:
    """One SwanLab run from its start to its end."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._run: Any = None
        self._mode = ""
        self._timeout = 20.0
        self._steps: dict[str, int] = {}
        self._odd: set[str] = set()
        self._refusals = Refusals(self)

    def answer(self, kind: str, **values: Any) -> None:
        """Write one answer; a training process that is gone is no reason to stop."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._answers.write(json.dumps({"kind": kind, **values}) + "\n")
            self._answers.flush()

    # --- the start --------------------------------------------------------------------------------------------------------------

    def start(self, hello: Message) -> None:
        """Begin or continue a run as `hello` says.

        Raises RefusedError and UnreachableError.
        """
        import swanlab  # noqa: F401 - takes a while, which is no fault of the server

        self.answer("awake")
        self._timeout = hello["timeout"]
        self._steps["alerts"] = hello["alerts"]
        settings = resolved(hello)
        self._mode = settings.mode
        if self._mode == "disabled":
            self.answer("started", mode="disabled")
            return
        if self._mode == "online":
            ask_for_entry(settings, self._timeout / 2)
        count_the_trainer(hello["pid"])
        self._run = begin(settings, hello)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # swanlab has put its own handler there
        if self._mode == "online":
            self._refusals.watch()
        self._say_started(settings, hello["continues"])

    def _say_started(self, settings: Any, continues: str | None) -> None:
        written = str(self._run.dir.absolute())
        self.answer(
            "started",
            mode=self._mode,
            id=self._run.id,
            name=self._run.name,
            project=settings.project.name,
            folder=continues or written,
            written=written,
            log_dir=str(settings.log_dir.absolute()),
            url=self._run.url if self._mode == "online" else None,
        )

    # --- what is logged ---------------------------------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Do what a message says."""
        if self._run is None:
            return
        getattr(self, f"_{message['kind']}")(message)

    def _log(self, message: Message) -> None:
        values: dict[str, Any] = message["values"]
        if self._mode == "local":
            values = self._drawable(values, message["step"])
        if values:
            self._run.log(values, step=message["step"])

    def _drawable(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        """Leave out what is not finite: one such value, and the dashboard draws nothing of its chart."""
        odd = {name for name, value in values.items() if not math.isfinite(value)}
        for name in sorted(odd - self._odd):
            text = f"{name} is {values[name]} at step {step}; the local dashboard cannot draw that, so such values are left out"
            self._alert({"step": step, "caption": f"warning · {name}", "text": text})
        self._odd |= odd
        return {name: value for name, value in values.items() if name not in odd}

    def _alert(self, message: Message) -> None:
        import swanlab

        self._media("alerts", swanlab.Text(message["text"], caption=message["caption"]), message["step"])

    def _table(self, message: Message) -> None:
        """A table of ECharts, or where that is not drawn a list of texts; a long one goes on under another name."""
        import swanlab

        name, step = message["name"], message["step"]
        if self._mode != "local":
            self._media(name, swanlab.echarts.Table().add(message["columns"], message["rows"]), step)
            return
        texts = [swanlab.Text(text, caption=caption) for caption, text in rows_as_text(message["columns"], message["rows"])]
        for part, first in enumerate(range(0, len(texts), ITEMS), start=1):
            self._media(name if part == 1 else f"{name} ({part})", texts[first : first + ITEMS], step)

    def _media(self, name: str, value: Any, step: int) -> None:
        """Log under a step of its own: swanlab drops what comes twice for the same key and step."""
        step = max(step, self._steps.get(name, -1) + 1)
        self._steps[name] = step
        self._run.log({name: value}, step=step)

    def _config(self, message: Message) -> None:
        values = message["values"]
        self._run.config.update(flat(values) if self._mode == "local" else values)

    def _model(self, message: Message) -> None:
        self._run.save(f"{message['path']}/**", base_path=message["base"], policy="now")

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def _finish(self, message: Message) -> None:
        """Finish the run, and say what did not arrive. Without progress of uploads for `timeout` seconds it ends here."""
        over = threading.Event()
        threading.Thread(target=self._watch_uploads, args=(over,), daemon=True).start()
        self._run.finish(state=message["state"], error=message["error"])
        over.set()
        self._say_done(self._pending())

    def _watch_uploads(self, over: threading.Event) -> None:
        seen, since = self._pending(), time.monotonic()
        while not over.wait(POLL):
            pending = self._pending()
            if pending != seen:
                seen, since = pending, time.monotonic()
                self.answer("progress")
            elif time.monotonic() - since > self._timeout:
                self._say_done(pending)
                os._exit(0)

    def _say_done(self, pending: int) -> None:
        told = self._refusals
        facts = {"refused": told.values, "requests": told.requests, "reason": told.reason, "alerts": self._steps["alerts"]}
        self.answer("done", pending=pending, **facts)

    def _pending(self) -> int:
        """How many records are still to be uploaded."""
        return upstream.pending(self._run) if self._mode == "online" else 0


class Refusals:
    """What the server refuses in the middle of a run: swanlab drops it with a line in its own log, so that nobody would know."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.requests = 0
        self.values = 0
        self.reason = ""

    def watch(self) -> None:
        """Look at every answer that swanlab's session gets."""
        upstream.watch_answers(self.see)

    def see(self, response: Any, *_args: Any, **_options: Any) -> None:
        """Count an answer of the kind that swanlab doesn't try again."""
        if not 400 <= response.status_code < 500:
            return
        if response.request.method == "GET":  # it asks whether something is there
            return
        self.requests += 1
        self.values += _values_in(response.request.body)
        self.reason = f"HTTP {response.status_code} {response.reason}".strip()
        if self.requests == 1:
            self._recorder.answer("trouble", reason=self.reason)


def _values_in(body: Any) -> int:
    """How many values a refused request held."""
    try:
        return len(json.loads(body)["metrics"])
    except (TypeError, ValueError, KeyError):
        return 0


if __name__ == "__main__":
    sys.exit(main())

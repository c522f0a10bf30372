"""The process that talks to SwanLab: `python -m longline_swanlab.recorder`, started by the plugin.

It is a process of its own because swanlab starts threads, waits for the network, takes over SIGINT, sys.excepthook and the
terminal, and can hang at exit. Here none of that touches the training. Messages come in as JSON, one a line; the first holds
everything that `swanlab.init` needs, `finish` is the last. Answers go out the same way:

- `awake`: swanlab is imported, and is asked now; `started`: id, name, folder, url, mode;
- `refused`: nothing can come of this, with the reason; `unreachable`: the server cannot be asked now;
- `took`: a table is written, and there is room for another one; `progress`: the end of the run makes progress;
- `trouble`: the server refuses what is sent, or swanlab cannot write it; `done`: what did not arrive.

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
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from longline.text import one_line
from longline_swanlab import upstream
from longline_swanlab.keys import Keys
from longline_swanlab.starting import RefusedError, UnreachableError, ask_for_entry, begin, count_the_trainer, resolved
from longline_swanlab.text import flat, rows_as_text

Message = Mapping[str, Any]

ALERTS = "alerts"
"""The key of alerts."""
ITEMS = 108
"""How many items swanlab keeps of one key at one step; it drops what is beyond without telling the run."""
POLL = 0.2
"""Seconds between two looks at what swanlab has written and uploaded."""
SURELY = 2.0
"""Seconds after which a table counts as written that swanlab has said nothing of: it tells of no failure."""
SAID = 300
"""Characters of a reason that are told."""


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
        self._keys = Keys()
        self._keys.of(ALERTS, "media")  # before a metric takes it
        self._refusals = Refusals(self)
        self._flushed = Flushed()
        self._given = self._sent = 0
        self._tables: deque[tuple[int, float]] = deque()
        self._failed, self._failure = 0, ""
        self._begun = False

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
        self._steps[ALERTS] = hello["alerts"]
        settings = resolved(hello)
        self._mode = settings.mode
        if self._mode == "disabled":
            self.answer("started", mode="disabled")
            return
        if self._mode == "online":
            ask_for_entry(settings, self._timeout / 2)
        count_the_trainer(hello["pid"])
        upstream.watch_failures(self._see_failure)
        self._run = begin(settings, hello, self._flushed.callback())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # swanlab has put its own handler there
        if self._mode == "online":
            self._refusals.watch()
            upstream.send_without_a_copy(self._run, self._see_failure)
        self._say_started(settings, hello["continues"])
        self._begun = True
        self._tell_failure()
        threading.Thread(target=self._acknowledge, daemon=True).start()

    def _see_failure(self, reason: str) -> None:
        """Tell what swanlab could not do, which it only writes into its own log: the first at once, all of them at the end."""
        self._failed += 1
        if self._failed == 1:
            self._failure = one_line(reason)[:SAID]
            self._tell_failure()

    def _tell_failure(self) -> None:
        if self._begun and self._failed:  # before that the answer to the start says all
            self.answer("trouble", about="write", reason=self._failure)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell of an error as of one that swanlab keeps to itself."""
        try:
            yield
        except Exception as error:
            self._see_failure(f"{type(error).__name__}: {error}")

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
        """Do what a message says; one that cannot be done does not take the next one with it."""
        if self._run is not None:
            with self._telling():
                getattr(self, f"_{message['kind']}")(message)
        elif message["kind"] == "table":
            self.answer("took")

    def _acknowledge(self) -> None:
        """Say of each table when it is written: swanlab does all in the order in which it is told, and a metric shall not wait."""
        while True:
            time.sleep(POLL)
            while self._tables and (self._flushed.media >= self._tables[0][0] or time.monotonic() > self._tables[0][1]):
                self._tables.popleft()
                self.answer("took")

    def _log(self, message: Message) -> None:
        values = self._drawable(message["values"], message["step"])
        if values:
            self._run.log({self._keys.of(name, "scalar"): value for name, value in values.items()}, step=message["step"])

    def _drawable(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        """Tell of what is not finite, and leave it out where one such value would take the whole chart away."""
        local = self._mode == "local"
        odd = {name for name, value in values.items() if not math.isfinite(value)}
        for name in sorted(odd - self._odd):
            if local:
                text = "the local dashboard cannot draw that, so such values are left out"
            elif math.isnan(values[name]):
                continue
            else:
                text = "SwanLab has no infinity and draws NaN in its place"
            name_ = one_line(name)
            alert = {"step": step, "caption": f"warning · {name_}", "text": f"{name_} is {values[name]} at step {step}; {text}"}
            self._alert(alert)
        self._odd |= odd
        return {name: value for name, value in values.items() if name not in odd} if local else values

    def _alert(self, message: Message) -> None:
        import swanlab

        self._media(ALERTS, swanlab.Text(message["text"], caption=message["caption"]), message["step"])

    def _table(self, message: Message) -> None:
        """A table of ECharts, or where that is not drawn a list of texts; a long one goes on under another name."""
        import swanlab

        name, step = message["name"], message["step"]
        if self._mode != "local":
            self._media(name, swanlab.echarts.Table().add(message["columns"], message["rows"]), step)
        else:
            self._texts(name, message, step)
        self._tables.append((self._given, time.monotonic() + SURELY))

    def _texts(self, name: str, message: Message, step: int) -> None:
        import swanlab

        texts = [swanlab.Text(text, caption=caption) for caption, text in rows_as_text(message["columns"], message["rows"])]
        for part, first in enumerate(range(0, len(texts), ITEMS), start=1):
            self._media(name if part == 1 else f"{name} ({part})", texts[first : first + ITEMS], step)

    def _media(self, name: str, value: Any, step: int) -> None:
        """Log under a step of its own: swanlab drops what comes twice for the same key and step."""
        step = max(step, self._steps.get(name, -1) + 1)
        self._steps[name] = step
        self._given += 1
        self._run.log({self._keys.of(name, "media"): value}, step=step)

    def _config(self, message: Message) -> None:
        values = message["values"]
        self._run.config.update(flat(values) if self._mode == "local" else values)

    def _model(self, message: Message) -> None:
        self._run.save(f"{message['path']}/**", base_path=message["base"], policy="now")

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def _finish(self, message: Message) -> None:
        """Finish the run, and say what did not arrive. Without any progress for `timeout` seconds it ends here."""
        over = threading.Event()
        threading.Thread(target=self._watch_progress, args=(over,), daemon=True).start()
        with self._telling():  # swanlab closes its own log at the end, which fails on a full disk
            self._run.finish(state=message["state"], error=message["error"])
        over.set()
        self._say_done(self._uploads()[0])

    def _watch_progress(self, over: threading.Event) -> None:
        seen, since = self._progress(), time.monotonic()
        while not over.wait(POLL):
            now = self._progress()
            if now != seen:
                seen, since = now, time.monotonic()
                self.answer("progress")
            elif time.monotonic() - since > self._timeout:
                self._say_done(self._uploads()[0])
                os._exit(0)

    def _progress(self) -> tuple[int, int, int]:
        """What changes while swanlab gets on: what is written on this machine, what is still to be uploaded, and what has been.

        A file that is sent again is no progress.
        """
        pending, sent = self._uploads()
        self._sent = max(self._sent, sent)
        return self._flushed.scalars + self._flushed.media, pending, self._sent

    def _say_done(self, pending: int) -> None:
        told = self._refusals
        facts = {"refused": told.values, "requests": told.requests, "reason": told.reason, "alerts": self._steps[ALERTS]}
        facts |= {"failed": self._failed, "failure": self._failure}
        self.answer("done", pending=pending, **facts)

    def _uploads(self) -> tuple[int, int]:
        return upstream.uploads(self._run) if self._mode == "online" else (0, 0)


class Flushed:
    """How many records swanlab has written, counted through its callbacks."""

    def __init__(self) -> None:
        self.scalars = self.media = 0

    def callback(self) -> Any:
        """Return what swanlab.init takes."""
        import swanlab

        counts = self

        class Count(swanlab.Callback):
            @property
            def name(self) -> str:
                return "longline"

            def on_scalar_flush(self, scalar_records: Sequence[Any], *_args: Any, **_options: Any) -> None:
                counts.scalars += len(scalar_records)

            def on_media_flush(self, media_records: Sequence[Any], *_args: Any, **_options: Any) -> None:
                counts.media += len(media_records)

        return Count()


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
            self._recorder.answer("trouble", about="refused", reason=self.reason)


def _values_in(body: Any) -> int:
    """How many values a refused request held."""
    try:
        return len(json.loads(body)["metrics"])
    except (TypeError, ValueError, KeyError):
        return 0


if __name__ == "__main__":
    sys.exit(main())

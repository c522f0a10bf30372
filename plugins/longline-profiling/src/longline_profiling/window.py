"""A window of steps through torch.profiler: a Chrome trace and, on CUDA, a memory snapshot, each whole or absent.

What goes wrong here is told and stops the recording, never the training.
"""

from __future__ import annotations

import gzip
import logging
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline_profiling.config import StepsConfig
    from longline_profiling.recorder import Recorder

logger = logging.getLogger("longline_profiling")

SNAPSHOT_ENTRIES = 200_000
"""Allocations and frees that the memory snapshot keeps, some hundred bytes each with their stacks; older ones are dropped."""
WRITING = "longline_profiling.write_trace"


class Window:
    """Records the steps of `options` on this rank and writes them into `folder`.

    `tell(title, text, level)` says where the trace is, and why there is none. `files` are those that were written.
    """

    def __init__(
        self, options: StepsConfig, folder: Path, rank: int, recorder: Recorder, tell: Callable[[str, str, Any], None]
    ) -> None:
        self.options = options
        self.folder = folder
        self.rank = rank
        self.recorder = recorder
        self.tell = tell
        self.files: list[Path] = []
        self.over = False
        self._profiler: Any = None
        self._stack = ExitStack()
        self._marker: Any = None
        self._first = self._last = 0  # the first and the last step that began while recording
        self._snapshot = False

    @property
    def recording(self) -> bool:
        """Whether the profiler is on."""
        return self._profiler is not None

    def begin_step(self, step: int) -> None:
        """A step begins: start the profiler before the first one, and mark each in the trace."""
        if self.over or step < self.options.start:
            return
        try:
            if not self.recording:
                if step > self.options.last:
                    self._say_missed(step)
                    return
                self._start(step)
            self._mark(step)
        except Exception as error:
            self._profiler = None
            self._give_up("torch.profiler could not be started", error)

    def end_step(self, step: int) -> None:
        """A step is done: write the trace after the last one, before an evaluation or a checkpoint would enter it."""
        if self.recording and step >= self.options.last:
            self.close(cut=False)

    def close(self, *, cut: bool = True) -> None:
        """Write what was recorded; `cut`: the run ended within the window."""
        if not self.recording:
            return
        self.over = True
        self.recorder.annotate = None
        if self._snapshot:
            self._attempt("the memory snapshot could not be written", self._dump_snapshot)
        self._attempt("the trace could not be written", lambda: self._write(cut))

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._give_up(what, error)

    def end_of_run(self, step: int) -> None:
        """Say that there is no trace when the run ended before the window."""
        if not self.over:
            self.over = True
            text = f"the run ended after step {step}, the window begins at step {self.options.start}"
            self.tell("no trace", f"{text}; lower plugins.profiling.steps.start", "warning")

    # --- recording --------------------------------------------------------------------------------------------------------------

    def _start(self, step: int) -> None:
        import torch
        from torch.profiler import profile, record_function

        options = self.options
        if options.memory_snapshot and torch.cuda.is_available():
            torch.cuda.memory._record_memory_history("all", stacks="python", max_entries=SNAPSHOT_ENTRIES)
            self._snapshot = True
            self._stack.callback(torch.cuda.memory._record_memory_history, None)
        profiler = profile(
            record_shapes=options.record_shapes, with_stack=options.with_stack, profile_memory=options.profile_memory
        )
        self._profiler = self._stack.enter_context(profiler)
        self._first = step
        self.recorder.annotate = record_function

    def _mark(self, step: int) -> None:
        """Begin the trace's own mark of a step, which viewers know by this name."""
        from torch.profiler import record_function

        self._unmark()
        self._marker = record_function(f"ProfilerStep#{step}")
        self._marker.__enter__()
        self._last = step

    def _unmark(self) -> None:
        if self._marker is not None:
            self._marker.__exit__(None, None, None)
            self._marker = None

    # --- writing ----------------------------------------------------------------------------------------------------------------

    def _path(self, kind: str, suffix: str) -> Path:
        steps = f"step-{self._first}" if self._last == self._first else f"steps-{self._first}-{self._last}"
        return self.folder / f"{kind}-rank{self.rank}-{steps}{suffix}"

    def _write(self, cut: bool) -> None:
        """Compress beside the final name: torch would put the text into /tmp first, where gigabytes often don't fit."""
        from longline_profiling.spans import Span

        profiler, self._profiler = self._profiler, None
        self._unmark()
        self._stack.close()
        final = self._path("trace", ".json.gz")
        self.folder.mkdir(parents=True, exist_ok=True)
        plain, packed = (self.folder / f".{final.name}.{part}" for part in ("json", "gz"))
        try:
            with Span(self.recorder, WRITING):
                profiler.export_chrome_trace(str(plain))
                with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=5) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                packed.replace(final)
        finally:
            plain.unlink(missing_ok=True)
            packed.unlink(missing_ok=True)
        self.files.append(final)
        short = f" (the run ended within the window, which goes to step {self.options.last})" if cut else ""
        text = f"{final}{short}: open it in ui.perfetto.dev, or: longline profile analyze {self.folder.parent}"
        self.tell("trace written", text, "info")

    def _dump_snapshot(self) -> None:
        import torch

        self._snapshot = False
        final = self._path("memory", ".pickle")
        partial = final.with_name(f".{final.name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.cuda.memory._dump_snapshot(str(partial))  # type: ignore[no-untyped-call]
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)
        self.files.append(final)
        self.tell("memory snapshot written", f"{final}: open it in pytorch.org/memory_viz", "info")

    def _say_missed(self, step: int) -> None:
        self.over = True
        text = f"the window of steps {self.options.start} to {self.options.last} is before step {step}, where this run goes on"
        self.tell("no trace", text, "info")

    def _give_up(self, what: str, error: Exception) -> None:
        """Say what failed; when nothing is recorded any more, leave everything as it was before the window."""
        self.over = True
        if not self.recording:
            self.recorder.annotate = None
            with suppress(Exception):
                self._unmark()
            with suppress(Exception):
                self._stack.close()
        logger.debug("%s", what, exc_info=error)
        self.tell(what, f"{type(error).__name__}: {error}; training goes on", "error")

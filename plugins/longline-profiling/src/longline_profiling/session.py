"""One recording from its beginning to its end: the spans, the trainer that is watched, the metrics, the trace."""

from __future__ import annotations

import functools
from time import perf_counter
from typing import TYPE_CHECKING, Any

from longline_profiling import table
from longline_profiling.recorder import Recorder
from longline_profiling.spans import Span, current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from longline import Timing
    from longline.methods.base import Method
    from longline_profiling.config import ProfilingConfig
    from longline_profiling.meter import Meter, Sums
    from longline_profiling.recorder import Snapshot
    from longline_profiling.watch import Watch
    from longline_profiling.window import Window


class Session:
    """Records from `open` to `close`, in the thread that calls them and in what inherits its context.

    `tell_timing` is handed every span; `tell(title, text, level)` what a person should know, such as where a trace is.
    """

    def __init__(
        self,
        options: ProfilingConfig,
        *,
        tell_timing: Callable[[Timing], None] | None = None,
        tell: Callable[[str, str, Any], None] = lambda title, text, level: None,
    ) -> None:
        self.options = options
        self.recorder = Recorder(options.min_duration_ms / 1000, tell_timing)
        self.tell = tell
        self.window: Window | None = None
        self.meter: Meter | None = None
        self.no_mfu = ""
        self.first_step: int | None = None
        self.train_seconds = 0.0
        self._watch: Watch | None = None
        self._outer: Span | None = None
        self._before: Snapshot | None = None
        self._after: Snapshot | None = None
        self._began = 0.0

    def open(self) -> None:
        """Let decorators and context managers find this recording."""
        self._outer = current.get()
        current.set(Span(self.recorder, None))

    def close(self) -> None:
        """End the recording; a trace that is being recorded is written, and the trainer is as it was."""
        self.end_training()
        if self._watch is not None:
            if self.window is not None:
                self.window.end_of_run(self._watch.trainer.state.global_step)
            self._watch.detach()
            self._watch = None
        current.set(self._outer)

    # --- a trainer --------------------------------------------------------------------------------------------------------------

    def watch(self, trainer: Any, folder: Path, method: Method | None = None) -> None:
        """Time a trainer's methods until `close`; traces go into `folder`. MFU needs the `method`.

        Raises AttributeError when the trainer lacks a method that the options name.
        """
        from longline_profiling.meter import Meter, gather_ranks
        from longline_profiling.watch import Watch
        from longline_profiling.window import WRITING, Window

        options, rank = self.options, int(trainer.args.process_index)
        steps = options.steps
        if steps is not None and (steps.ranks == "all" or rank == 0):
            self.window = Window(steps, folder, rank, self.recorder, self.tell)
        kind = type(trainer).__name__
        pauses = frozenset({f"{kind}.evaluate", f"{kind}._save_checkpoint", WRITING})
        self.meter = Meter(self.recorder, options.log_interval, gather_ranks, pauses)
        if options.mfu:
            self._prepare_mfu(trainer, method)
        if options.synchronize:
            self.recorder.wait = _waiting(trainer.args.device)
        self._watch = Watch(trainer, self.recorder, self, methods=options.methods)
        self._watch.attach()

    def _prepare_mfu(self, trainer: Any, method: Method | None) -> None:
        """Count the model and find the device's peak, or remember why that cannot be done."""
        from longline_profiling import flops, peak

        assert self.meter is not None  # noqa: S101 - made by the caller
        if method is None:
            self.no_mfu = "the method is not known"
            return
        if not method.counts_flops:
            self.no_mfu = f"with {method.name} the number of tokens does not tell the arithmetic (generation, other passes)"
            return
        try:
            self.meter.flops = flops.count(trainer.model, reference=method.has_reference(trainer.args))
            self.meter.peak = peak.find(trainer.model, trainer.args, self.options.peak_tflops)
        except flops.UnknownError as error:
            self.no_mfu = str(error)
            self.meter.flops = None

    def metrics(self, logs: Mapping[str, Any], step: int) -> dict[str, float]:
        """Return the metrics to add to a log event; a collective when there are several ranks."""
        return {} if self.meter is None else self.meter.metrics(logs, step)

    # --- what the watched trainer tells -----------------------------------------------------------------------------------------

    def begin_training(self, state: Any) -> None:
        """Training begins; the trainer's state is that of a resumed run already."""
        self.first_step = state.global_step + 1
        self._before, self._after, self._began = self.recorder.snapshot(), None, perf_counter()
        if self.meter is not None:
            self.meter.begin(state.global_step, state.log_history)

    def begin_step(self, step: int) -> None:
        """The batches of a step are about to be fetched."""
        self.recorder.step = step
        if self.window is not None:
            self.window.begin_step(step)

    def end_step(self, step: int) -> None:
        """The weights changed; logging, evaluation and saving follow, and still belong to this step."""
        if self.window is not None:
            self.window.end_step(step)

    def on_batch(self, inputs: Mapping[str, Any]) -> None:
        """A batch is about to be trained on."""
        if self.meter is not None:
            self.meter.on_batch(inputs)

    def end_training(self) -> None:
        """Training is over, however it ended; what is timed from here on is no part of it."""
        if self._before is None or self._after is not None:
            return
        self.train_seconds = perf_counter() - self._began
        self._after = self.recorder.snapshot()
        if self.window is not None:
            self.window.close()

    # --- figures ----------------------------------------------------------------------------------------------------------------

    def rows(self) -> list[table.Row]:
        """The figures of this rank so far, children below the spans that they were measured inside of."""
        return table.rows(self.recorder.stats(), self._before, self._after, self.train_seconds)

    @property
    def rest_seconds(self) -> float | None:
        """Seconds of training in which no span was open; None before training ended."""
        if self._before is None or self._after is None:
            return None
        return max(0.0, self.train_seconds - (self._after.top - self._before.top))

    @property
    def ranks(self) -> list[Sums]:
        """The sums of every rank up to the last log event that had metrics; empty when there is only this one."""
        found = self.meter.ranks if self.meter is not None else []
        return found if len(found) > 1 else []

    def summary(self) -> str:
        """The figures as a table."""
        lines = [table.cells(row) for row in self.rows()]
        rest = self.rest_seconds
        if rest is not None and self.train_seconds:
            lines.append(table.rest(rest, self.train_seconds))
        return table.text(lines)


def _waiting(device: Any) -> Callable[[], None] | None:
    """What waits for a device; None for a CPU, which does its work at once."""
    if device.type == "cpu":
        return None
    import torch

    return functools.partial(torch.accelerator.synchronize, device)

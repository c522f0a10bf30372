"""Ctrl-C and SIGTERM: the first asks, the second insists.

While a step runs, the first signal only sets a flag that the trainer reads between two steps. Before and after training
there is nothing to finish, so it raises `Interrupted` where the program is. The second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from longline.errors import Interrupted


class StopRequest:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.deferred = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum, f"stopped by {signal.Signals(self.signum).name}")

    @contextmanager
    def defer(self) -> Iterator[None]:
        """Within the block a signal only sets the flag: something is under way that should be finished."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False


@contextmanager
def handling(stop: StopRequest, last_words: Callable[[int], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM for the block; `last_words(signum)` is called when a second one ends the process.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, _frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        if stop.requested:
            last_words(signum)
            sys.stdout.flush()
            os._exit(128 + signum)
        stop.signum = signum
        if not stop.deferred:
            raise Interrupted(signum, f"stopped by {name}")
        # os.write: print is not safe here if the signal came in the middle of one
        os.write(2, f"\n{name}: finishing this step and saving a checkpoint; once more stops at once\n".encode())

    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

"""Ctrl-C and SIGTERM: the first asks, the second insists.

Until training begins there is nothing to finish, so the first signal raises `Interrupted` where the program is. From then on it
only sets a flag that the trainer reads between two steps. The second one ends the process at once, also when the main thread is
in the middle of a long call that is not Python, such as a collective that waits for a rank that died.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from longline.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 0.5
"""One Ctrl-C may come twice, from the terminal and from a launcher that passes it on: what follows this soon is no second one."""


class StopRequest:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.doing: str | None = None
        self.obeyed = False
        """Whether the trainer stopped for it; a signal that comes after the last step changes nothing."""

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum, f"stopped by {signal.Signals(self.signum).name}")

    def defer(self, doing: str) -> None:
        """From here on a signal only sets the flag; `doing` tells the person what is finished first."""
        self.doing = doing


@contextmanager
def handling(stop: StopRequest, last_words: Callable[[int], None], *, talks: bool = True) -> Iterator[None]:
    """Handle SIGINT and SIGTERM for the block; `last_words(signum)` is called when a second one ends the process.

    `talks`: whether this process tells the person what is finished first; one of all ranks does. Outside the main thread, where
    Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    heard = False

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            return  # the watcher ends the process
        heard = True
        if not stop.requested:  # another rank may have passed it on already
            stop.signum = signum
        if stop.doing is None:
            stop.check()
        if not talks:
            return
        # os.write: print is not safe here if the signal came in the middle of one
        os.write(2, f"\n{signal.Signals(signum).name}: {stop.doing}; once more stops at once\n".encode())

    with _watching(last_words):
        previous = {signum: signal.signal(signum, handle) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


@contextmanager
def _watching(last_words: Callable[[int], None]) -> Iterator[None]:
    """Run a thread that is told of every signal as it arrives, where Python's own handlers wait for the main thread."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        first: float | None = None
        while numbers := receiver.recv(16):
            for signum in filter(SIGNALS.__contains__, numbers):
                first = first or monotonic()
                if monotonic() - first > ECHO_SECONDS:
                    _end(signum, last_words)

    watcher = threading.Thread(target=watch, name="longline-signals", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sender.close()
        watcher.join()
        receiver.close()


def _end(signum: int, last_words: Callable[[int], None]) -> None:
    """End the process, whatever its other threads do."""
    try:
        last_words(signum)
    finally:
        os._exit(128 + signum)

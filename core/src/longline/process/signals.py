"""Ctrl-C, SIGTERM and a closed terminal: the first asks, the second insists.

Until training begins there is nothing to finish, so the first signal raises `Interrupted` where the program is. From then on it
only sets a flag that the trainer reads between two steps. The second one ends the process at once, also when the main thread is
in the middle of a long call that is not Python, such as a collective that waits for a rank that died.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from longline.errors import Interrupted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What stops a run between two steps; SIGHUP comes when the terminal is closed or the connection to it is lost."""
STOPPED = frozenset(128 + signum for signum in SIGNALS)
"""The exit statuses of a run that a signal stopped."""
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU", "SIGIO", "SIGPWR")
    if hasattr(signal, name)
)
"""Every signal that ends a process which does not handle it, and that one process may send another with that in mind."""
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
    """Handle SIGNALS for the block; `last_words(signum)` is called when a second one ends the process.

    `talks`: whether this process tells the person what is finished first; one of all ranks does. Outside the main thread, where
    Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    heard = False
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal heard
        _let_go_of(terminals)
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
        # On a terminal over the live line, and over the ^C in it: the line is drawn again below.
        begin = "\r\x1b[2K" if os.isatty(2) else "\n"
        os.write(2, f"{begin}{signal.Signals(signum).name}: {stop.doing}; once more stops at once\n".encode())

    with _watching(last_words), handlers(SIGNALS, handle):
        yield


@contextmanager
def handlers(signums: Iterable[signal.Signals], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals for the block, less a SIGHUP that was ignored before: so nohup asks."""
    heard = [signum for signum in signums if signum.name != "SIGHUP" or signal.getsignal(signum) != signal.SIG_IGN]
    previous = {signum: signal.signal(signum, handle) for signum in heard}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _let_go_of(terminals: list[int]) -> None:
    """Write no more to terminals that are gone: it would be an error, in the middle of saving a checkpoint."""
    gone = [stream for stream in terminals if not os.isatty(stream)]
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in gone:
            os.dup2(nowhere, stream)
        os.close(nowhere)


def once() -> None:
    """Let the first Ctrl-C raise KeyboardInterrupt; one that insists ends the process, without a word of where it was."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    first: float | None = None

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = monotonic()
            raise KeyboardInterrupt
        if monotonic() - first > ECHO_SECONDS:
            os._exit(128 + signum)

    signal.signal(signal.SIGINT, handle)
    # The first to be registered runs last; after it Python has no handlers any more, and the signal would end the process.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def leave(code: int) -> None:
    """From here on the process is ending with `code`: a Ctrl-C that came twice changes nothing, one that insists ends it now."""
    # A KeyboardInterrupt inside an exec of text, as dataclasses do while they are imported, leaves Python a note of it although it
    # was caught, and `python -m` then ends by SIGINT whatever its status is; the next such exec takes the note away.
    exec("")  # noqa: S102
    begin = monotonic()

    def handle(_signum: int, _frame: FrameType | None) -> None:
        if monotonic() - begin > ECHO_SECONDS:
            os._exit(code)

    signal.signal(signal.SIGINT, handle)


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

"""A process that ends when the one that started it is gone.

A launcher that is killed tells nobody: its ranks would train on, with nobody to see it, and hold the run folder. Nothing but the
number of the parent is looked at: Linux's own signal for it goes with the thread that started a process, and not with the process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

VARIABLE = "LONGLINE_PARENT"
"""Set by whoever starts a process that follows it: its own number, since it may be gone before the other asks."""
LOOK_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""For a step and a checkpoint, as torchrun itself allows."""


def follow(stop: Callable[[], None] | None = None) -> None:
    """Watch the parent from a thread: when it is gone, call `stop`, and end this process if that has not ended it in time.

    Left out, `stop` sends SIGTERM to this process: a run finishes its step and saves a checkpoint.
    """
    parent = int(os.environ.pop(VARIABLE, 0)) or os.getppid()
    watcher = threading.Thread(target=_watch, args=(parent, stop or _terminate), name="longline-parent", daemon=True)
    watcher.start()


def _watch(parent: int, stop: Callable[[], None]) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    stop()
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)

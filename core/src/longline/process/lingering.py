"""What keeps a finished process from ending: a thread that is no daemon is waited for by Python, without a word."""

from __future__ import annotations

import sys
import threading
import time
import traceback

SECONDS = 2.0
"""How long a finished process may take to end before its threads are named; libraries' own end with it by then."""


def watch() -> None:
    """Call this when a command is done: a thread of its own, which holds nothing itself, names those that hold the process."""
    threading.Thread(target=_tell, name="longline-lingering", daemon=True).start()


def _tell() -> None:
    time.sleep(SECONDS)
    stacks = sys._current_frames()  # documented: the stack of each thread
    for thread in threading.enumerate():
        if thread.daemon or thread is threading.main_thread():
            continue
        frames = traceback.extract_stack(stacks.get(thread.ident or 0))
        own = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename != threading.__file__]
        place = f", which is at {own[-1]}" if own else ""
        text = f"the command is done; the process waits for the thread {thread.name!r}{place}"
        sys.stderr.write(f"warning: {text}: whoever started it should end it, or make it a daemon\n")

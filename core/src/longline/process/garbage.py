"""Python's garbage collector, out of the way while a run starts and while its process ends.

Torch and transformers bring a million objects that stay. Searching them for garbage again and again took a fifth of the time of
their import, a third of a second of the first steps, and more than a second at the exit of the process.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Search for nothing in the block, which imports, and from then on leave out what it brought, until `thaw`.

    Memory is still freed as soon as nothing refers to it; only garbage that refers to itself has to wait.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def thaw() -> None:
    """Let the collector see everything again: the process may go on with other things."""
    gc.unfreeze()


def leave() -> None:
    """Let the process exit without a last search through all that is loaded; exit handlers run as ever."""
    gc.freeze()

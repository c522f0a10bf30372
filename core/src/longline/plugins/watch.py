"""Hooks that do not return: told while they hang, with where they are, and once more when the run ends."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from longline.hookspecs import hook_facts
from longline.plugins import bus

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline.plugins.bus import Answer, Bus, Frame

logger = logging.getLogger("longline.plugins")

LOOKS = 10
"""How often a hook is looked at before it counts as slow."""
OFTENEST, RAREST = 0.01, 60.0
"""Seconds between two looks, whatever is asked for."""


class Watch:
    """Looks from a thread of its own at what runs in the others; the calls themselves pay nothing for it.

    A hook counts from the first look that finds it, so it is told up to a tenth of its `slow_after` late. `slow` are the answers
    that took longer than their plugins' `slow_after`, in the order in which that was seen.
    """

    def __init__(self, watched: Bus, mask: Callable[[str], str]) -> None:
        self.slow: dict[Answer, None] = {}
        self._bus, self._mask, self._facts = watched, mask, hook_facts()
        self._seen: dict[int, tuple[Answer, int, float]] = {}

    def look(self) -> None:
        """Look once at every thread."""
        stacks = sys._current_frames()  # documented: the stack of each thread
        for frame in list(self._bus.threads):
            if frame.thread not in stacks:
                self._bus.threads.remove(frame)
                continue
            answer = _innermost(frame)
            if answer is None or answer.plugin is None or self._facts[answer.hook].patient:
                self._seen.pop(frame.thread, None)
                continue
            calls = answer.cost.calls  # counted when a call returns: the same number is the same call
            begin = monotonic()
            seen = self._seen.get(frame.thread)
            if seen is None or seen[:2] != (answer, calls):
                self._seen[frame.thread] = (answer, calls, begin)
            elif begin - seen[2] >= answer.plugin.slow_after and answer not in self.slow:
                self.slow[answer] = None
                stack = "".join(traceback.format_list(_since_call(traceback.extract_stack(stacks[frame.thread]))))
                text = f"{answer.plugin.label} has been in {answer.hook} for {begin - seen[2]:.0f} s, and the run waits for it"
                logger.warning("%s; it is here:\n%s", text, self._mask(stack).rstrip())

    def totals(self) -> list[str]:
        """What the hooks that were slow took in all, a sentence each."""
        return [
            f"{answer.plugin.label} took {answer.cost.seconds:.0f} s in {answer.cost.calls} calls of {answer.hook}"
            for answer in self.slow
            if answer.plugin is not None
        ]


def _innermost(frame: Frame) -> Answer | None:
    try:
        return frame.active[-1]
    except IndexError:  # it may return between any two looks
        return None


def _since_call(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """The part of a stack that is the plugin's: what the bus called last."""
    calls = [index for index, frame in enumerate(stack) if frame.filename == bus.__file__]
    return stack[calls[-1] + 1 :] if calls else list(stack)


@contextmanager
def watching(watched: Bus, mask: Callable[[str], str]) -> Iterator[Watch]:
    """Watch the hooks of a bus; `mask` takes secrets out of the stack that is told."""
    watch = Watch(watched, mask)
    limits = [plugin.slow_after for plugin in watched.plugins]
    if not limits:
        yield watch
        return
    done = threading.Event()

    pause = min(max(min(limits) / LOOKS, OFTENEST), RAREST)

    def loop() -> None:
        while not done.wait(pause):
            watch.look()

    thread = threading.Thread(target=loop, name="longline-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()

"""Faults that a test puts into a run: an exception, an exit, a hang or a signal at the n-th call of a hook."""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from longline.errors import nearest
from longline.hookspecs import hook_facts, hookimpl
from longline.plugins import LoadedPlugin, Plugin, PluginConfig
from longline.testing.recorder import EveryHook

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline import Run
    from longline.plugins.base import OnError

How = Literal["raise", "exit", "hang", "SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"]


class FaultConfig(PluginConfig):
    """Where a fault happens, and which."""

    hook: str
    """The hook in which it happens."""
    call: Annotated[int, Field(ge=1)] = 1
    """At which call of the hook, from 1 on."""
    how: How = "raise"
    """What happens."""
    rank: int | None = None
    """The rank on which it happens; without it, every rank that is called."""


class Fault(EveryHook):
    """Answers every hook with nothing, until the fault happens."""

    Config = FaultConfig

    def __init__(self, config: FaultConfig) -> None:
        super().__init__(config)
        self.count = 0

    def called(self, hook: str, **arguments: Any) -> None:
        """Count the calls, and do it at the one that is asked for."""
        if hook != self.config.hook or self.config.rank not in (None, arguments["run"].rank):
            return
        self.count += 1
        if self.count == self.config.call:
            happen(self.config.how, f"call {self.count} of {hook}")


def happen(how: How, where: str) -> None:
    """Do what a fault does. Raises RuntimeError for `raise` and SystemExit for `exit`."""
    if how == "raise":
        raise RuntimeError(f"a fault that the test asked for: {where}")
    if how == "exit":
        sys.exit(f"an exit that the test asked for: {where}")
    if how == "hang":
        time.sleep(24 * 3600)
    else:
        os.kill(os.getpid(), signal.Signals[how])


def fail_at(hook: str, n: int = 1, how: How = "raise", *, rank: int | None = None) -> LoadedPlugin:
    """Return a plugin that fails at the n-th call of a hook, for the `plugins` of `run_longline` and `run_process`.

    `how` is `raise`, `exit` (SystemExit), `hang`, or a signal that the process sends itself: `SIGINT`, `SIGTERM`, `SIGHUP` or
    `SIGKILL`. What ends a process, and what hangs, belongs into `run_process`; `run_longline` runs in the process of the tests.
    `rank` is the only rank on which it happens. An exception stops the run in every hook, for the plugin's `on_error` is `raise`.

    Raises ValueError for a hook that there is not.
    """
    if hook not in hook_facts():
        raise ValueError(f"there is no hook {hook!r}; did you mean {nearest(hook, hook_facts())!r}?")
    fault = Fault(FaultConfig(hook=hook, call=n, how=how, rank=rank))
    return LoadedPlugin.of(fault, f"fault-{hook}-{n}", on_error="raise")


class Act(Plugin):
    """Does what a test wants at the end of one step."""

    def __init__(self, step: int, what: Callable[[Run, int], object]) -> None:
        super().__init__(PluginConfig())
        self.step, self.what = step, what

    @hookimpl
    def on_step_end(self, run: Run, step: int) -> None:
        """Call it."""
        if step == self.step:
            self.what(run, step)


def at_step(step: int, what: Callable[[Run, int], object], *, on_error: OnError = "continue") -> LoadedPlugin:
    """Return a plugin that calls `what(run, step)` at the end of a step, on the main rank; several can be in one run.

    `at_step(3, lambda run, step: run.alert("the net", "is torn"))`. It has to be in this process: `run_longline` takes it.
    """
    return LoadedPlugin.of(Act(step, what), f"act-{next(_NUMBERS)}", on_error)


_NUMBERS = count(1)
"""Plugins of one run need names of their own."""

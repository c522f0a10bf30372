"""Spans: a decorator and a context manager that time code, and cost next to nothing while nobody records.

Which recording they belong to is a context variable, set for the time of a run or of `recording()`: two runs in one process
don't meet, coroutines inherit it, and there is no manager to import. A new thread begins without it: `carry` takes it along.
"""

from __future__ import annotations

import functools
import inspect
import os
from contextlib import nullcontext
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from longline_profiling.recorder import Recorder

Function = TypeVar("Function", bound="Callable[..., Any]")


class Span:
    """One stretch of time: entered once, left once. `failed` spans, whose body raised, are recorded like all others."""

    __slots__ = ("_annotation", "begin", "name", "outer", "recorder")

    def __init__(self, recorder: Recorder, name: str | None) -> None:
        self.recorder = recorder
        self.name = name
        self.outer: Span | None = None
        self._annotation: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Span:
        recorder = self.recorder
        self.outer = current.get()
        current.set(self)
        if recorder.annotate is not None:
            self._annotation = recorder.annotate(self.name)
            self._annotation.__enter__()
        if recorder.wait is not None:
            recorder.wait()
        self.begin = perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        recorder, outer = self.recorder, self.outer
        if recorder.wait is not None and kind is None:  # a device that failed would raise once more
            recorder.wait()
        seconds = perf_counter() - self.begin
        if self._annotation is not None:
            self._annotation.__exit__(kind, error, trace)
        current.set(outer)
        parent = outer.name if outer is not None and outer.recorder is recorder else None
        recorder.add(self.name or "", parent, seconds, kind is not None)


current: ContextVar[Span | None] = ContextVar("longline_profiling", default=None)
"""The innermost open span of this thread or coroutine; the span of a recording itself has no name. None: nobody records."""

# A worker of a data loader inherits the context, but what it records would be lost, and what it raises would come twice.
os.register_at_fork(after_in_child=lambda: current.set(None))

_OFF = nullcontext()


def profile(name: str) -> AbstractContextManager[Any]:
    """Time a block: `with profile("tokenise"): ...`."""
    outer = current.get()
    return _OFF if outer is None else Span(outer.recorder, name)


@overload
def profiled(function: Function) -> Function: ...
@overload
def profiled(*, name: str | None = None) -> Callable[[Function], Function]: ...
def profiled(function: Any = None, *, name: str | None = None) -> Any:
    """Time every call of a function, method or coroutine: `@profiled` or `@profiled(name="reward")`.

    The name defaults to `Class.method`, or the function's own. Raises TypeError for a generator, which runs in turns with
    whoever reads it: time its parts with `profile`.
    """
    if function is None:
        return functools.partial(profiled, name=name)
    if isinstance(function, (staticmethod, classmethod)):
        inner: Any = profiled(name=name)(function.__func__)
        return type(function)(inner)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is a generator: its time is its reader's too; use `with profile(...)` inside")
    label = name or function.__qualname__.rpartition("<locals>.")[2]
    timed = (_timed_coroutine if inspect.iscoroutinefunction(function) else _timed)(function, label)
    timed.span = label  # type: ignore[attr-defined]  # a trainer's method that its author times is not timed twice
    return timed


def _timed(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        outer = current.get()
        if outer is None:
            return function(*args, **kwargs)
        with Span(outer.recorder, label):
            return function(*args, **kwargs)

    return timed


def _timed_coroutine(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def timed(*args: Any, **kwargs: Any) -> Any:
        outer = current.get()
        if outer is None:
            return await function(*args, **kwargs)
        with Span(outer.recorder, label):
            return await function(*args, **kwargs)

    return timed


def carry(function: Function) -> Function:
    """Bind a function to the recording and the open span of here, for a thread that is about to run it.

    `Thread(target=carry(work))`, `pool.submit(carry(work), item)`.
    """
    outer = current.get()

    @functools.wraps(function)
    def carried(*args: Any, **kwargs: Any) -> Any:
        before = current.get()
        current.set(outer)
        try:
            return function(*args, **kwargs)
        finally:
            current.set(before)

    return carried  # type: ignore[return-value]

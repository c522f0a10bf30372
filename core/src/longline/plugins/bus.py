"""The bus: calls each plugin's hooks one by one, contains their failures, and keeps the account of calls and time.

pluggy registers, verifies and orders the implementations. The calls themselves are made here, because one call of pluggy
stops at the first exception, while a tracker that fails must cost neither the run nor the other plugins.

A bus belongs to one run. `Bus([])` is the null bus: every hook exists and nobody answers, which is what a stage is tested with.
"""

from __future__ import annotations

import inspect
import logging
import threading
from dataclasses import dataclass, field
from operator import itemgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from longline import hookspecs
from longline.errors import Interrupted, PluginError, did_you_mean
from longline.plugins.account import Account, HookCost
from longline.plugins.verify import verified_manager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pluggy

    from longline.plugins.base import LoadedPlugin

logger = logging.getLogger("longline.plugins")


class HookError(PluginError):
    """A plugin raised where that stops the run; `plugin` and `hook` say who and where, `__cause__` is what it raised.

    The message has its file and line. Without the plugin the run does without what it adds.
    """

    def __init__(self, message: str, *, plugin: str, hook: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.plugin = plugin
        self.hook = hook


@dataclass(frozen=True, slots=True)
class Contained:
    """The first contained failure of a plugin in a hook; later ones are only counted."""

    plugin: LoadedPlugin
    hook: str
    error: BaseException


def log_failure(failure: Contained) -> None:
    """The default of `Bus(on_failure=...)`: one warning with the traceback, to the logger `longline.plugins`."""
    logger.warning(
        "%s failed in %s: %s: %s; training goes on, later failures of this hook are only counted",
        failure.plugin.label,
        failure.hook,
        type(failure.error).__name__,
        failure.error,
        exc_info=failure.error,
    )


@dataclass(slots=True, eq=False)
class Answer:
    """One implementation of a hook: who gave it (None: the core), the function, and what picks its arguments from a call's."""

    hook: str
    name: str
    plugin: LoadedPlugin | None
    function: Callable[..., Any]
    pick: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    cost: HookCost


@dataclass(slots=True)
class Frame:
    """What runs in one thread: the stack of `active` answers, the seconds of hooks raised inside the innermost of them, and
    what the last answer took in all.
    """

    active: list[Answer] = field(default_factory=list)
    inner: float = 0.0
    took: float = 0.0
    thread: int = field(default_factory=threading.get_ident)


class _Frames(threading.local):
    """The frame of each thread, as a plain object: attributes of thread-locals themselves are slow."""

    def __init__(self, known: list[Frame]) -> None:
        self.mine = Frame()
        known.append(self.mine)


class HookCall:
    """One hook of one bus. Call it with exactly the arguments of its specification, all by keyword.

    Returns the first answer that is not None of a provide hook, and None for the other kinds. Raises `HookError` where the
    hook's kind, or the plugin's `on_error: raise`, stops the run, and TypeError when an argument is missing or unknown.
    What the core's own objects raise comes through as it is.
    """

    __slots__ = ("_account", "_answers", "_arguments", "_bus", "_frames", "_main_only", "facts", "name")

    def __init__(self, name: str, facts: hookspecs.HookFacts, bus: Bus, answers: tuple[Answer, ...]) -> None:
        self.name = name
        self.facts = facts
        self._bus = bus
        self._account = bus.account
        self._frames = bus.frames
        self._answers = answers
        self._arguments = frozenset(facts.arguments)
        self._main_only = facts.ranks == "main"

    def default(self, **kwargs: Any) -> Any:
        """The core's own answer, for whoever builds on it; None where the core has none. Raises TypeError as a call does."""
        if kwargs.keys() != self._arguments:
            self._refuse(kwargs)
        answers = (answer.function(*answer.pick(kwargs)) for answer in self._answers if answer.plugin is None)
        return next((value for value in answers if value is not None), None)

    @property
    def plugins(self) -> tuple[str, ...]:
        """The names of those who answer, in the order in which they are called."""
        return tuple(answer.name for answer in self._answers)

    def __call__(self, **kwargs: Any) -> Any:  # noqa: D102 - said by the class
        begin = perf_counter()
        # Looked at also where nobody listens, so that a wrong call fails in every run and not in somebody's.
        if kwargs.keys() != self._arguments:
            self._refuse(kwargs)
        if self._main_only and not kwargs["run"].is_main:
            return None
        if self._bus.trace is not None:
            self._bus.trace.append((self.name, self.plugins))
        if self._answers:
            return self._ask(kwargs, begin)
        spent = perf_counter() - begin
        self._account.bus_seconds += spent
        self._frames.mine.inner += spent
        return None

    def _refuse(self, kwargs: Mapping[str, Any]) -> NoReturn:
        missing = sorted(self._arguments - kwargs.keys())
        unknown = sorted(kwargs.keys() - self._arguments)
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise TypeError(f"hook {self.name}({', '.join(self.facts.arguments)}): {'; '.join(parts)}")

    def _ask(self, kwargs: Mapping[str, Any], begin: float) -> Any:
        """Call every answer in order; what they took is taken off the bus's own time."""
        frame, kind = self._frames.mine, self.facts.kind
        outer, depth, spent = frame.inner, len(frame.active), 0.0
        stop: BaseException | None = None
        try:
            for answer in self._answers:
                if answer in frame.active:  # it raised this itself: an alert about an alert would never end
                    continue
                if self.facts.seal is not None:
                    self.facts.seal(kwargs)
                value, error = self._call(answer, kwargs, frame)
                spent += frame.took
                if error is not None:
                    if kind != "observe" or not _can_wait(error):
                        raise error
                    stop = stop or error  # an event is told to all before it stops the run
                elif value is not None and kind == "provide":
                    self._bus.provided[self.name] = answer.name
                    return value
            if stop is not None:
                raise stop
        finally:
            del frame.active[depth:]
            total = perf_counter() - begin
            self._account.bus_seconds += total - spent
            frame.inner = outer + total

    def _call(self, answer: Answer, kwargs: Mapping[str, Any], frame: Frame) -> tuple[Any, BaseException | None]:
        """Call one answer and enter it in the account, without the time of hooks that it raised itself."""
        value, error = None, None
        frame.active.append(answer)
        frame.inner = 0.0
        start = perf_counter()
        try:
            value = answer.function(*answer.pick(kwargs))
            if value is not None:
                self._judge_value(value)
        except BaseException as raised:
            error = self._judge(answer, raised)
        frame.took = perf_counter() - start
        answer.cost.calls += 1
        answer.cost.seconds += frame.took - frame.inner
        frame.active.pop()
        return value, error

    def _judge_value(self, value: object) -> None:
        """What a plugin answers is looked at where it can still be named."""
        if self.facts.kind == "shape":  # it believes that it replaces what it was handed; saying nothing would hide that
            kind = type(value).__name__
            raise TypeError(f"{self.name} returned a {kind}; change what the hook is handed in place, return nothing")
        if self.facts.fault is not None and (fault := self.facts.fault(value)):
            raise TypeError(f"{self.name} was answered with something else than it asks for: {fault}")

    def _judge(self, answer: Answer, error: BaseException) -> BaseException | None:
        """What an exception comes to: None when it is contained, otherwise what is to be raised."""
        plugin, cost = answer.plugin, answer.cost
        # A library that calls sys.exit() must not end a run as if it were done.
        ordinary = isinstance(error, (Exception, SystemExit)) and not isinstance(error, (Interrupted, HookError))
        if plugin is None or not ordinary:
            return error
        cost.failures += 1
        cost.last_error = f"{type(error).__name__}: {error}"
        if self.facts.kind == "observe" and plugin.on_error == "continue":
            if cost.failures == 1:
                self._bus.on_failure(Contained(plugin, self.name, error))
            return None
        told = plugin.failed(f"stopped the run in {self.name}", error)
        stop = HookError(told.message, plugin=plugin.name, hook=self.name, hint=told.hint)
        stop.__cause__ = error
        return stop


def _can_wait(error: BaseException) -> bool:
    """Whether the others may still be told of an event first; an interruption stops at once."""
    return isinstance(error, (Exception, SystemExit)) and not isinstance(error, Interrupted)


class HookRelay:
    """The hooks of a bus as attributes: `relay.on_log(run=run, logs=logs, step=step)`."""

    def __init__(self, calls: Mapping[str, HookCall]) -> None:
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> HookCall:
        raise AttributeError(f"there is no hook {name!r}; {did_you_mean(name, vars(self), 'see the hook reference')}")


class Bus:
    """The hooks of one run and everybody who answers them.

    `loaded` plugins are called in their order, the `core`'s own objects (name, object) after them in theirs. `on_failure` is
    told the first contained failure of each plugin and hook. Raises PluginError when a plugin has a misspelled hook or
    argument, a hook method without `@hookimpl`, or one that cannot be called by itself.

    Attributes: `plugins`, `hook` (the calls), `account` (what they cost), `provided` (provide hook -> who answered it), `threads`
    (what runs in each), and `trace`: None, or a list that receives `(hook, names of those who answer)` at every call.
    """

    def __init__(
        self,
        loaded: Sequence[LoadedPlugin],
        core: Sequence[tuple[str, object]] = (),
        on_failure: Callable[[Contained], None] = log_failure,
    ) -> None:
        manager = verified_manager(loaded, core)
        self.plugins = tuple(loaded)
        self.account = Account({plugin.name: {} for plugin in loaded})
        self.on_failure = on_failure
        self.provided: dict[str, str] = {}
        self.trace: list[tuple[str, tuple[str, ...]]] | None = None
        self.threads: list[Frame] = []
        self.frames = _Frames(self.threads)
        owners = {plugin.name: plugin for plugin in loaded}
        self._calls: dict[str, HookCall] = {}
        for name, facts in hookspecs.hook_facts().items():
            # pluggy lists in the order of registration and calls the last registered first
            implementations = reversed(getattr(manager.hook, name).get_hookimpls())
            answers = tuple(self._answer(name, implementation, owners) for implementation in implementations)
            self._calls[name] = HookCall(name, facts, self, answers)
        self.hook = HookRelay(self._calls)

    def _answer(self, hook: str, implementation: pluggy.HookImpl, owners: Mapping[str, LoadedPlugin]) -> Answer:
        plugin = owners.get(implementation.plugin_name)
        cost = self.account.open(implementation.plugin_name, hook, core=plugin is None)
        function, pick = _positional(implementation.function)
        return Answer(hook, implementation.plugin_name, plugin, function, pick, cost)

    def listeners(self) -> dict[str, list[str]]:
        """Who answers each hook, in the order of calls; every hook is there, in the order of time."""
        return {name: list(call.plugins) for name, call in self._calls.items()}


def _positional(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    """A function that takes its arguments by position, and what picks them from the keywords of a call."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters]
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters):
        return (lambda *values: function(**dict(zip(names, values, strict=True)))), _picker(names)
    return function, _picker(names)


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if not names:
        return lambda kwargs: ()
    if len(names) == 1:
        return lambda kwargs, name=names[0]: (kwargs[name],)  # type: ignore[misc]
    return itemgetter(*names)

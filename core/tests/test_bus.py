"""The bus: order, kinds, containment, and an account whose seconds are true."""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from longline import Alert, Plugin, hookimpl
from longline.errors import DataError, Interrupted, PluginError, TrainingError
from longline.plugins import Bus, Contained, HookError, LoadedPlugin


@dataclass
class BareRun:
    """All that a bus looks at in a run."""

    is_main: bool = True
    hook: Any = None


def bus_of(*plugins: Plugin | LoadedPlugin, core=(), **kwargs) -> Bus:
    loaded = [plugin if isinstance(plugin, LoadedPlugin) else LoadedPlugin.of(plugin) for plugin in plugins]
    return Bus(loaded, core, **kwargs)


def run_of(bus: Bus, is_main: bool = True) -> BareRun:
    return BareRun(is_main, bus.hook)


class Writer(Plugin):
    """Writes its name into a shared list at every hook that the tests raise."""

    def __init__(self, name: str, lines: list[str]) -> None:
        super().__init__(None)
        self.name, self.lines = name, lines

    @hookimpl
    def on_log(self, step):
        self.lines.append(f"{self.name} on_log {step}")

    @hookimpl
    def pre_trainer_args(self, trainer_args):
        trainer_args["seen"] = [*trainer_args.get("seen", []), self.name]


def named(name: str, plugin: Plugin, **kwargs) -> LoadedPlugin:
    return LoadedPlugin.of(plugin, name, **kwargs)


# --- order and kinds ----------------------------------------------------------------------------------------------------------


def test_calls_go_in_the_given_order_and_the_core_comes_last():
    lines: list[str] = []
    names = ["zebra", "ant", "moose", "bee"]
    bus = bus_of(
        *(named(n, Writer(n, lines)) for n in names), core=[("first", Writer("c1", lines)), ("second", Writer("c2", lines))]
    )
    bus.hook.on_log(run=run_of(bus), logs={}, step=7)
    assert lines == [f"{name} on_log 7" for name in [*names, "c1", "c2"]]
    assert bus.listeners()["on_log"] == [*names, "longline:first", "longline:second"]
    assert bus.listeners()["on_save"] == []


def test_shape_hooks_change_what_they_are_handed_one_after_the_other():
    bus = bus_of(named("a", Writer("a", [])), named("b", Writer("b", [])))
    args = {"lr": 1}
    assert bus.hook.pre_trainer_args(run=run_of(bus), trainer_args=args) is None
    assert args == {"lr": 1, "seen": ["a", "b"]}


class Said(str):
    """An answer that is a function, as the hook asks for, and can be told from others."""

    def __call__(self):
        raise NotImplementedError


class Loss(Plugin):
    def __init__(self, answer):
        super().__init__(None)
        self.answer, self.asked = answer, 0

    @hookimpl
    def provide_loss(self):
        self.asked += 1
        return self.answer


def test_the_first_answer_of_a_provide_hook_is_used_and_the_core_is_asked_last():
    core, silent, speaks, late = Loss(Said("core")), Loss(None), Loss(Said("mine")), Loss(Said("late"))
    bus = bus_of(named("silent", silent), named("speaks", speaks), named("late", late), core=[("defaults", core)])
    assert bus.hook.provide_loss(run=run_of(bus), model=None) == "mine"
    assert (silent.asked, speaks.asked, late.asked, core.asked) == (1, 1, 0, 0)
    assert bus.provided == {"provide_loss": "speaks"}
    bus = bus_of(named("silent", silent), core=[("defaults", core)])
    assert bus.hook.provide_loss(run=run_of(bus), model=None) == "core"
    assert bus.provided == {"provide_loss": "longline:defaults"}


def test_a_falsy_answer_is_an_answer():
    bus = bus_of(named("empty", Loss(Said(""))), core=[("defaults", Loss(Said("core")))])
    assert bus.hook.provide_loss(run=run_of(bus), model=None) == ""


def test_the_null_bus_has_every_hook_and_answers_none():
    bus = Bus([])
    assert bus.hook.provide_loss(run=BareRun(), model=None) is None
    assert bus.hook.on_log(run=BareRun(), logs={}, step=1) is None
    assert bus.account.as_dict()["plugins"] == {}


def test_hooks_of_the_main_rank_are_not_called_elsewhere():
    lines: list[str] = []
    bus = bus_of(Writer("w", lines))
    bus.trace = []
    bus.hook.on_log(run=run_of(bus, is_main=False), logs={}, step=1)
    bus.hook.pre_trainer_args(run=run_of(bus, is_main=False), trainer_args={})
    assert lines == []
    assert bus.trace == [("pre_trainer_args", ("writer",))]


def test_a_missing_or_unknown_argument_of_a_call_is_an_error_even_when_nobody_answers():
    bus = Bus([])
    with pytest.raises(TypeError, match=r"on_log\(run, logs, step\): missing step"):
        bus.hook.on_log(run=BareRun(), logs={})
    with pytest.raises(TypeError, match="unknown stp"):
        bus.hook.on_log(run=BareRun(), logs={}, step=1, stp=1)
    with pytest.raises(AttributeError, match="no hook 'on_lgo'; did you mean 'on_log'"):
        bus.hook.on_lgo  # noqa: B018


def test_a_shape_hook_that_returns_something_is_refused():
    class Returns(Plugin):
        @hookimpl
        def pre_trainer_args(self, trainer_args):
            return {**trainer_args, "lr": 2}

    bus = bus_of(Returns(None))
    with pytest.raises(HookError, match="pre_trainer_args returned a dict; change what the hook is handed in place"):
        bus.hook.pre_trainer_args(run=run_of(bus), trainer_args={})


# --- failure ------------------------------------------------------------------------------------------------------------------


class Fails(Plugin):
    def __init__(self, error: BaseException):
        super().__init__(None)
        self.error, self.calls = error, 0

    def fail(self):
        self.calls += 1
        raise self.error

    @hookimpl
    def on_log(self, run):
        self.fail()

    @hookimpl
    def pre_trainer_args(self, run):
        self.fail()

    @hookimpl
    def provide_loss(self, run):
        self.fail()


def test_a_failing_observer_costs_only_its_own_data(caplog):
    lines: list[str] = []
    fails = Fails(ValueError("no network"))
    loaded = LoadedPlugin("fails", fails, None, "longline-fails", "1.2")
    bus = bus_of(named("a", Writer("a", lines)), loaded, named("z", Writer("z", lines)))
    with caplog.at_level(logging.WARNING, "longline.plugins"):
        for step in range(5):
            bus.hook.on_log(run=run_of(bus), logs={}, step=step)
    assert len(lines) == 10
    assert fails.calls == 5
    assert len(caplog.records) == 1
    record = caplog.records[0]
    assert "plugin 'fails' (longline-fails 1.2) failed in on_log: ValueError: no network" in record.getMessage()
    assert record.exc_info[1] is fails.error
    cost = bus.account.as_dict()["plugins"]["fails"]["on_log"]
    assert (cost["calls"], cost["failures"], cost["last_error"]) == (5, 5, "ValueError: no network")


@pytest.mark.parametrize(("hook", "arguments"), [("pre_trainer_args", {"trainer_args": {}}), ("provide_loss", {"model": None})])
def test_shape_and_provide_stop_the_run_and_name_everything(hook, arguments):
    cause = ZeroDivisionError("division by zero")
    bus = bus_of(LoadedPlugin("fails", Fails(cause), None, "longline-fails", "1.2"), named("z", Loss("unused")))
    with pytest.raises(HookError) as caught:
        getattr(bus.hook, hook)(run=run_of(bus), **arguments)
    error = caught.value
    assert isinstance(error, PluginError)
    assert error.exit_code == 3
    text = f"plugin 'fails' (longline-fails 1.2) stopped the run in {hook}: ZeroDivisionError: division by zero"
    assert re.fullmatch(rf"{re.escape(text)} \(.*test_bus\.py:\d+\)", error.message)  # where in the author's own code
    assert error.hint == "--debug shows the traceback; without 'fails' under plugins: the run does without it"
    assert error.__cause__ is cause
    assert (error.plugin, error.hook) == ("fails", hook)


def test_an_error_raised_on_purpose_keeps_its_message_and_hint():
    bus = bus_of(Fails(DataError("the kernel does not fit this model", hint="use sdpa")))
    with pytest.raises(HookError) as caught:
        bus.hook.pre_trainer_args(run=run_of(bus), trainer_args={})
    assert caught.value.message == "plugin 'fails' stopped the run in pre_trainer_args: the kernel does not fit this model"
    assert caught.value.hint == "use sdpa"


@pytest.mark.parametrize("hook", ["pre_trainer_args", "on_log"])
def test_errors_of_the_core_come_through_as_they_are(hook):
    lines: list[str] = []
    cause = TrainingError("disk full")
    bus = bus_of(Writer("w", lines), core=[("broken", Fails(cause)), ("after", Writer("after", lines))])
    arguments = {"trainer_args": {}} if hook == "pre_trainer_args" else {"logs": {}, "step": 1}
    with pytest.raises(TrainingError) as caught:
        getattr(bus.hook, hook)(run=run_of(bus), **arguments)
    assert caught.value is cause
    if hook == "on_log":
        assert lines == ["w on_log 1", "after on_log 1"]


def test_on_error_raise_makes_an_observer_strict_after_the_others_were_told():
    lines: list[str] = []
    strict = named("strict", Fails(OSError("quota")), on_error="raise")
    bus = bus_of(strict, named("z", Writer("z", lines)))
    with pytest.raises(HookError, match="plugin 'strict' stopped the run in on_log: OSError: quota"):
        bus.hook.on_log(run=run_of(bus), logs={}, step=3)
    assert lines == ["z on_log 3"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(2, "stopped by SIGINT")])
@pytest.mark.parametrize("hook", ["pre_trainer_args", "on_log"])
def test_an_interruption_is_never_contained_or_wrapped(error, hook):
    bus = bus_of(Fails(error))
    arguments = {"trainer_args": {}} if hook == "pre_trainer_args" else {"logs": {}, "step": 1}
    with pytest.raises(type(error)) as caught:
        getattr(bus.hook, hook)(run=run_of(bus), **arguments)
    assert caught.value is error
    assert bus.account.failures == 0


def test_a_library_that_exits_does_not_end_the_run():
    bus = bus_of(Fails(SystemExit(0)))
    bus.hook.on_log(run=run_of(bus), logs={}, step=1)
    assert bus.account.failures == 1
    with pytest.raises(HookError, match="SystemExit"):
        bus.hook.pre_trainer_args(run=run_of(bus), trainer_args={})


def test_on_failure_is_told_once_for_each_plugin_and_hook():
    class Twice(Fails):
        @hookimpl
        def on_save(self):
            self.fail()

    told: list[Contained] = []
    bus = bus_of(named("a", Twice(ValueError("a"))), named("b", Fails(ValueError("b"))), on_failure=told.append)
    for _ in range(3):
        bus.hook.on_log(run=run_of(bus), logs={}, step=1)
        bus.hook.on_save(run=run_of(bus), path=None)
    assert [(failure.plugin.name, failure.hook) for failure in told] == [("a", "on_log"), ("b", "on_log"), ("a", "on_save")]


# --- hooks inside hooks -------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    alerts: list[str] = field(default_factory=list)


class Alarm(Plugin):
    """Answers an alert with an alert, and fails."""

    def __init__(self, seen: Seen, *, fails: bool):
        super().__init__(None)
        self.seen, self.fails = seen, fails

    @hookimpl
    def on_alert(self, run, alert):
        self.seen.alerts.append(alert.title)
        if len(self.seen.alerts) > 50:
            pytest.fail("alerts answer alerts without end")
        run.hook.on_alert(run=run, alert=Alert(f"again {alert.title}"))
        if self.fails:
            raise RuntimeError("sent nothing")


def test_a_plugin_is_not_handed_the_event_that_it_raises_itself():
    one, two = Seen(), Seen()
    bus = bus_of(named("one", Alarm(one, fails=True)), named("two", Alarm(two, fails=False)))
    bus.hook.on_alert(run=run_of(bus), alert=Alert("fire"))
    assert one.alerts == ["fire", "again fire"]
    assert two.alerts == ["again fire", "fire"]


def test_a_failure_that_is_reported_by_an_alert_does_not_recurse():
    seen = Seen()
    bus = bus_of(Alarm(seen, fails=True))
    run = run_of(bus)
    bus.on_failure = lambda failure: bus.hook.on_alert(run=run, alert=Alert(f"{failure.plugin.name} failed"))
    bus.hook.on_alert(run=run, alert=Alert("fire"))
    bus.hook.on_alert(run=run, alert=Alert("water"))
    assert seen.alerts == ["fire", "water"]
    assert bus.account.plugins["alarm"]["on_alert"].failures == 2


def test_a_strict_listener_stops_the_run_through_a_contained_plugin():
    class Raises(Plugin):
        @hookimpl
        def on_log(self, run):
            run.hook.on_alert(run=run, alert=Alert("x"))

    class Strict(Plugin):
        @hookimpl
        def on_alert(self, alert):
            raise OSError("no webhook")

    bus = bus_of(Raises(None), named("strict", Strict(None), on_error="raise"))
    with pytest.raises(HookError, match="plugin 'strict' stopped the run in on_alert"):
        bus.hook.on_log(run=run_of(bus), logs={}, step=1)
    assert bus.account.plugins["raises"]["on_log"].failures == 0


class Sleeper(Plugin):
    def __init__(self, seconds: float, *, raises: bool = False):
        super().__init__(None)
        self.seconds, self.raises = seconds, raises

    @hookimpl
    def on_log(self, run):
        time.sleep(self.seconds)
        if self.raises:
            run.hook.on_alert(run=run, alert=Alert("x"))

    @hookimpl
    def on_alert(self, run):
        time.sleep(self.seconds)


def test_seconds_of_hooks_inside_hooks_are_counted_once():
    bus = bus_of(named("outer", Sleeper(0.05, raises=True)), named("inner", Sleeper(0.1)))
    begin = time.perf_counter()
    bus.hook.on_log(run=run_of(bus), logs={}, step=1)
    total = time.perf_counter() - begin
    plugins = bus.account.plugins
    assert plugins["outer"]["on_log"].seconds == pytest.approx(0.05, abs=0.02)
    assert plugins["outer"]["on_alert"].seconds == pytest.approx(0.05, abs=0.02)
    assert plugins["inner"]["on_log"].seconds == pytest.approx(0.1, abs=0.02)
    assert plugins["inner"]["on_alert"].seconds == pytest.approx(0.1, abs=0.02)
    assert bus.account.plugin_seconds + bus.account.bus_seconds == pytest.approx(total, abs=0.002)
    assert bus.account.bus_seconds < 0.005


def test_the_core_is_not_plugin_overhead():
    bus = bus_of(named("p", Sleeper(0.02)), core=[("log", Sleeper(0.1))])
    bus.hook.on_log(run=run_of(bus), logs={}, step=1)
    assert bus.account.plugin_seconds == pytest.approx(0.02, abs=0.01)
    assert bus.account.as_dict()["core"]["longline:log"]["on_log"]["seconds"] == pytest.approx(0.1, abs=0.02)


def test_threads_do_not_disturb_each_others_account():
    bus = bus_of(named("p", Sleeper(0.01, raises=True)))
    run = run_of(bus)
    threads = [threading.Thread(target=bus.hook.on_log, kwargs={"run": run, "logs": {}, "step": i}) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    costs = bus.account.plugins["p"]
    assert (costs["on_log"].calls, costs["on_alert"].calls) == (8, 8)
    assert costs["on_log"].seconds == pytest.approx(0.08, rel=0.5)
    assert bus.account.bus_seconds < 0.04


# --- what it tells ------------------------------------------------------------------------------------------------------------


def test_the_account_is_told_as_a_dict_and_as_a_table():
    from rich.console import Console

    bus = bus_of(named("a", Sleeper(0.02)), named("b", Fails(ValueError("x"))), named("idle", Loss(None)), on_failure=print)
    for step in range(2):
        bus.hook.on_log(run=run_of(bus), logs={}, step=step)
    told = bus.account.as_dict()
    assert list(told["plugins"]) == ["a", "b", "idle"]
    assert told["plugins"]["a"]["on_log"]["calls"] == 2
    assert told["plugins"]["idle"] == {}
    console = Console(width=100, record=True)
    console.print(bus.account.table(train_seconds=0.4))
    text = console.export_text()
    assert [row.plugin for row in bus.account.rows()] == ["a", "b", "idle"]
    a_row = next(line for line in text.splitlines() if line.startswith("│ a "))
    share = float(a_row.split("│")[5].strip().removesuffix("%"))
    assert share == pytest.approx(10, abs=3)
    assert "the bus itself" in text


def test_shares_are_shown_with_digits_that_count():
    from longline.plugins.account import share

    assert share(1, 0) == "-"
    assert share(0.5, 10) == "5.00 %"
    assert share(0.0001, 100) == "0.0001 %"


def test_the_trace_is_every_call_in_order_with_who_answers():
    bus = bus_of(named("a", Sleeper(0, raises=True)))
    bus.trace = []
    run = run_of(bus)
    bus.hook.pre_data_load(run=run)
    bus.hook.on_log(run=run, logs={}, step=1)
    assert bus.trace == [("pre_data_load", ()), ("on_log", ("a",)), ("on_alert", ("a",))]


def test_a_call_that_nobody_answers_costs_about_a_microsecond():
    bus = Bus([])
    run, call = BareRun(), bus.hook.on_step_end
    rounds = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(2000):
            call(run=run, step=1)
        rounds.append((time.perf_counter() - begin) / 2000)
    assert min(rounds) < 3e-6


# --- mistakes that are refused at start ---------------------------------------------------------------------------------------


def mistakes(plugin: type[Plugin]) -> str:
    with pytest.raises(PluginError) as caught:
        bus_of(LoadedPlugin("mine", plugin(None), None, "longline-mine", "0.3"))
    assert caught.value.exit_code == 3
    assert "plugin 'mine' (longline-mine 0.3): " in caught.value.message
    assert "remove 'mine' from plugins:" in caught.value.hint
    return caught.value.message


def test_a_misspelled_hook():
    class Wrong(Plugin):
        @hookimpl
        def on_lgo(self, run): ...

    assert "there is no hook 'on_lgo'; did you mean 'on_log'?" in mistakes(Wrong)


def test_a_misspelled_argument():
    class Wrong(Plugin):
        @hookimpl
        def on_log(self, run, setp): ...

    assert "on_log has no argument 'setp'; did you mean 'step'?" in mistakes(Wrong)


def test_a_misspelled_argument_with_a_default():
    class Wrong(Plugin):
        @hookimpl
        def on_log(self, run, stp=None): ...

    assert "on_log has no argument 'stp'; did you mean 'step'?" in mistakes(Wrong)


def test_an_argument_with_a_default_is_handed_over():
    class Default(Plugin):
        seen = None

        @hookimpl
        def on_log(self, *, step=-1):
            Default.seen = step

    bus = bus_of(Default(None))
    bus.hook.on_log(run=run_of(bus), logs={}, step=4)
    assert Default.seen == 4


def test_a_hook_method_without_the_marker():
    class Wrong(Plugin):
        def on_log(self, run): ...

    assert "on_log is the name of a hook, but the method has no @hookimpl" in mistakes(Wrong)


def test_hook_names_of_a_foreign_base_are_not_ours():
    class Foreign:
        def on_log(self, args, state, control): ...

    class Mine(Plugin, Foreign):
        @hookimpl
        def on_save(self, path): ...

    assert bus_of(Mine(None)).listeners()["on_log"] == []


def test_what_would_never_be_called_as_meant():
    class Wrong(Plugin):
        @hookimpl
        def on_log(self, **everything): ...

        @hookimpl
        async def on_save(self, path): ...

        @hookimpl(wrapper=True)
        def on_alert(self):
            return (yield)

        @hookimpl(trylast=True)
        def on_checkpoint(self): ...

    text = mistakes(Wrong)
    assert "on_log takes **everything; name the arguments that you want, out of run, logs, step" in text
    assert "on_save is a coroutine or a generator" in text
    assert "on_alert uses @hookimpl(wrapper=True)" in text
    assert "on_checkpoint uses @hookimpl(trylast=True)" in text
    assert len(text.splitlines()) == 4


def test_a_hook_of_a_newer_longline_may_be_optional():
    class Newer(Plugin):
        @hookimpl(optionalhook=True)
        def on_teleport(self, run): ...

    assert "on_teleport" not in bus_of(Newer(None)).listeners()


def test_specname_gives_a_method_another_name():
    class Named(Plugin):
        steps = 0

        @hookimpl(specname="on_log")
        def count(self, step):
            self.steps += 1

    plugin = Named(None)
    bus = bus_of(plugin)
    bus.hook.on_log(run=run_of(bus), logs={}, step=1)
    assert plugin.steps == 1


def test_two_buses_share_nothing():
    lines: list[str] = []
    one, two = bus_of(Writer("w", lines)), Bus([])
    two.hook.on_log(run=run_of(two), logs={}, step=1)
    assert lines == []
    one.hook.on_log(run=run_of(one), logs={}, step=1)
    assert two.account.plugins == {}

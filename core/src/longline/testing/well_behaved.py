"""All that a plugin has to be, tried in one call: a checklist, which is what a failure shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

from longline import hookspecs
from longline.errors import ConfigError, PluginError
from longline.hookspecs import hookimpl
from longline.plugins import LoadedPlugin, load_plugins
from longline.plugins.verify import marked
from longline.testing.behaviour import assert_constructor_is_idle, assert_import_is_light
from longline.testing.bench import STEPS, Bench, Peer, environment
from longline.testing.entries import known, surroundings
from longline.testing.faults import fail_at
from longline.testing.ranks import RunFolder, run_ranks
from longline.testing.resume import apart, assert_same
from longline.testing.secrets import assert_no_secret

if TYPE_CHECKING:
    from longline.plugins import Plugin
    from longline.testing.running import Outcome
    from longline.testing.servers import Server

AT = 2
"""The step at which runs are interrupted."""
UNKNOWN = "an_option_that_no_plugin_has"
WEIGHED = ("step", "loss", "eval_loss", "grad_norm", "learning_rate")
"""What a run's log tells of its training."""


@dataclass(frozen=True)
class Check:
    """A line of the checklist: its word, what has to be so, what tries it, and the words of those without which it cannot be."""

    word: str
    text: str
    attempt: Callable[[], object]
    after: tuple[str, ...] = ("options",)


class Checks:
    """The checks of one plugin; each method raises what is wrong."""

    def __init__(self, bench: Bench, ranks: int, ignore: tuple[str, ...], servers: Sequence[Server]) -> None:
        self.bench, self.ranks, self.ignore, self.servers = bench, ranks, ignore, servers

    def all(self) -> Iterator[Check]:
        """The lines of the checklist, in order; what does not concern the plugin is left out."""
        plugin, options = self.bench.plugin, self.bench.options
        yield Check("options", "its options are taken, and one that it does not have is refused", self.options, ())
        yield Check("import", "importing it costs little", lambda: assert_import_is_light(plugin.__module__), ())
        yield Check("constructor", "its constructor does no work", lambda: assert_constructor_is_idle(plugin, options))
        yield Check("hooks", "it answers a hook", self.answers)
        yield Check("run", "a run with it completes, and no hook of it fails", self.completes)
        through = ("run",)
        yield Check("others", "neither do its hooks beside another plugin that raises events", self.together, through)
        yield Check("unchanged", "as it only observes, the run is the same without it", self.changes_nothing, through)
        yield Check("contained", "when its on_ hooks fail, the run completes", self.contains, through)
        yield Check("error", "an error of another plugin stays that error", self.fails_well, through)
        yield Check("resume", "interrupted and resumed, the run is the one without interruption", self.resumes, through)
        yield Check("left", "nothing of it runs on after a run, however that ended", self.leaves_nothing, through)
        yield Check("commands", "check, plan, evaluate and generate take it", self.commands, through)
        yield Check("secrets", "its secrets are in no file, output or request", self.keeps_secrets, through)
        yield Check("ranks", f"it trains on {self.ranks} ranks, is interrupted there and goes on", lambda: self.beside, through)
        yield Check("state", "there, too, the run is the one without interruption", self.resumes_on_ranks, ("ranks",))
        yield Check("silent", "beside the main rank it writes, sends and prints nothing", self.is_silent, ("ranks",))

    def concerns(self, check: Check) -> bool:
        """Whether a check says something of this plugin; asked when its options are taken."""
        if check.word in ("ranks", "state", "silent"):
            return self.ranks > 1
        if check.word == "unchanged":
            return self.bench.observes
        return bool(self.bench.secrets) if check.word == "secrets" else True

    # --- before a run -----------------------------------------------------------------------------------------------------------

    def options(self) -> None:
        """Taken as a config has them, and with a schema."""
        from longline.config.loader import load_config

        model = self.bench.plugin.Config
        model.model_validate(self.bench.options)
        model.model_json_schema()
        options = self.bench.entry()[self.bench.name]
        try:
            with environment(self.bench.environment):
                load_plugins(load_config(self.bench.config("options")))
                load_plugins(load_config(self.bench.config("options", [{self.bench.name: {**options, UNKNOWN: 1}}])))
        except ConfigError as error:
            if UNKNOWN in str(error):
                return
            raise
        raise AssertionError("an unknown option is taken: derive Config from longline.PluginConfig")

    def answers(self) -> None:
        """It would do nothing otherwise."""
        if not self.bench.hooks:
            raise AssertionError("no method of it is marked with @hookimpl")

    # --- runs -------------------------------------------------------------------------------------------------------------------

    @cached_property
    def whole(self) -> Outcome:
        """A run with it."""
        return self.bench.train("whole")

    def completes(self) -> None:
        """Also what is contained in a run is a failure here."""
        self._completed(self.whole)

    def together(self) -> None:
        """Events come from others at any time."""
        self._completed(self.bench.train("others", Peer()))

    def _completed(self, outcome: Outcome) -> None:
        bad = [] if outcome.result.status == "completed" else [f"the run is {outcome.result.status}"]
        for hook, cost in outcome.manifest["hooks"]["plugins"][self.bench.name].items():
            bad += [f"{hook} failed {cost['failures']} times: {cost['last_error']}"] if cost["failures"] else []
        if bad:
            raise AssertionError("\n".join(bad))

    def changes_nothing(self) -> None:
        """Weights and losses are compared bit by bit."""
        plain = self.bench.train("without", plugins=[])
        if found := next(apart(plain, self.whole), ""):
            raise AssertionError(found)
        numbers, others = (
            [{name: event[name] for name in WEIGHED if name in event} for event in run.log if "loss" in event]
            for run in (plain, self.whole)
        )
        if numbers != others:
            raise AssertionError(f"the log says {others}, without it {numbers}")

    def contains(self) -> None:
        """Its shape hooks must not need what an on_ hook would have made. on_run_end is let be: it cleans up."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        methods = {name: said.get("specname") or name for name, said in marked(self.bench.plugin, manager).items()}
        observed = {name: hook for name, hook in methods.items() if self.bench.hooks[hook].kind == "observe"}
        broken = {name: _failing(hook) for name, hook in observed.items() if hook != "on_run_end"}
        instance = type(self.bench.plugin.__name__, (self.bench.plugin,), broken)(self.bench.made().config)
        outcome = self.bench.train("contained", LoadedPlugin.of(instance, self.bench.name), plugins=[])
        if outcome.result.status != "completed":
            raise AssertionError(f"the run is {outcome.result.status}")

    def fails_well(self) -> None:
        """The second step's gradients are ready when it happens."""
        try:
            self.bench.train("fails", fail_at("pre_optimizer_step", 2))
        except PluginError as error:
            if "a fault that the test asked for" not in str(error):
                raise
        else:
            raise AssertionError("it hid the error")

    def resumes(self) -> None:
        """Stopped by SIGINT, and gone on with."""
        self.bench.train("parts", fail_at("on_step_end", AT, "SIGINT"))
        assert_same(self.whole, self.bench.train("parts", resume="last"), at=AT, last=STEPS, ignore=self.ignore)

    def leaves_nothing(self) -> None:
        """The first run is not asked: libraries start threads of their own in it."""
        found = {name: left for name, left in self.bench.left.items() if left and name in ("others", "fails", "parts")}
        if found:
            told = "\n".join(f"after the run {name!r}: {', '.join(left)}" for name, left in found.items())
            raise AssertionError(f"{told}\nend it in on_run_end, which comes however a run ends")

    def commands(self) -> None:
        """In this process. What cannot be evaluated or generated with is left out; a run folder stays as it is."""
        run = self.whole.output_dir
        config = self.bench.config("commands")
        self.bench.command("check", config)
        self.bench.command("check", run / "config.yaml")  # the saved config repeats the run
        self.bench.command("plan", config)
        list(self.bench.made().doctor())
        before = _files(run)
        for words in _usable(run):
            self.bench.command(*words)
        if changed := sorted({path for path, _ in before.symmetric_difference(_files(run))}):
            raise AssertionError(f"evaluate or generate changed {', '.join(changed)} in a finished run: look at run.command")

    def keeps_secrets(self) -> None:
        """Those that were among the options."""
        assert_no_secret(self.bench.secrets, self.bench.folder, *self.bench.said, *self.servers)

    # --- ranks ------------------------------------------------------------------------------------------------------------------

    @cached_property
    def beside(self) -> dict[int, list[str]]:
        """What it did on each rank but the main one; the runs are in the folder `ranks`."""
        place = self.bench.folder / "ranks"
        place.mkdir()
        config = self.bench.config("ranks").rename(place / "config.yaml")
        text, seen = run_ranks(config, self.bench.plugin.__module__, self.ranks, AT, surroundings())
        self.bench.said.append(text)
        return seen

    def resumes_on_ranks(self) -> None:
        """As on one."""
        whole, parts = (RunFolder(self.bench.folder / "ranks" / name) for name in ("whole", "parts"))
        assert_same(whole, parts, at=AT, last=STEPS, ignore=self.ignore)

    def is_silent(self) -> None:
        """What is told is told once."""
        told = [f"rank {number} {what}" for number, seen in self.beside.items() for what in seen]
        if told:
            raise AssertionError("\n".join([*told, "look at run.is_main first"]))


def _failing(hook: str) -> Callable[..., None]:
    def fails(self: object) -> None:
        raise RuntimeError(f"a fault that the test asked for: {hook}")

    fails.__name__ = hook
    marker: Callable[..., Any] = hookimpl(specname=hook)
    return marker(fails)  # type: ignore[no-any-return]


def _usable(run: Path) -> Iterator[tuple[object, ...]]:
    """The commands that a finished run of its method can be used with."""
    from longline.config.loader import load_config
    from longline.methods import find

    method = find(load_config(run / "config.yaml", data_files=False).config.method)
    ways: tuple[tuple[Callable[[str], object], tuple[object, ...]], ...] = (
        (method.measuring, ("evaluate", run, "--output", run.parent / "measures.json")),
        (method.answering, ("generate", run, "--prompt", "How many hooks?", "--max-new-tokens", 2)),
    )
    for way, words in ways:
        try:
            way(str(run))
        except ConfigError:
            continue
        yield words


def _files(run: Path) -> set[tuple[str, bytes]]:
    return {(str(path.relative_to(run)), path.read_bytes()) for path in run.rglob("*") if path.is_file()}


# --- the checklist --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def assert_well_behaved(
    run_config: Callable[..., Path], run_longline: Callable[..., Outcome], tmp_path: Path
) -> Callable[..., None]:
    """Return a function that tries all that a plugin has to be, and fails with a checklist.

    `assert_well_behaved(TidePlugin, {"every": 2})`: options, import and constructor; runs alone, beside others, with failures of
    its own and of others, interrupted and resumed; commands; secrets; and two ranks, which take longer than all the rest: `ranks=1`
    leaves them out. The class must stand in a module that can be imported. `ignore` names metrics that cannot be equal,
    or what they begin with. `skip={"silent": "each rank writes its trace"}` leaves out a line by its word, with a reason.
    `servers` are those that the options name, whose requests are searched for secrets. Other keywords go into the config of every
    run.
    """

    def check(
        plugin: type[Plugin],
        options: Mapping[str, Any] | None = None,
        *,
        ranks: int = 2,
        ignore: Sequence[str] = (),
        skip: Mapping[str, str] | None = None,
        servers: Sequence[Server] = (),
        **overrides: Any,
    ) -> None:
        folder = tmp_path / f"well-behaved-{len(list(tmp_path.glob('well-behaved-*')))}"
        folder.mkdir()
        bench = Bench(plugin, options or {}, run_config, run_longline, folder, overrides)
        with known(tmp_path / "entry-points", {bench.name: plugin}):
            lines, failed = tried(Checks(bench, ranks, tuple(ignore), servers), skip or {})
        for text in bench.said:
            print(text)  # noqa: T201 - pytest shows it beside the checklist
        if failed:
            told = "\n".join(lines)
            pytest.fail(f"{plugin.__name__} is not well behaved, {failed} of its checks failed:\n{told}", pytrace=False)

    return check


def tried(checks: Checks, skip: Mapping[str, str]) -> tuple[list[str], int]:
    """The lines of the checklist, and how many failed. Raises ValueError for a word in `skip` that no line has."""
    every = list(checks.all())
    if unknown := set(skip) - {check.word for check in every}:
        raise ValueError(f"skip: there is no {unknown.pop()!r}; there are {', '.join(check.word for check in every)}")
    lines, failed, lacking = [], list[str](), dict[str, str]()
    for check in every:
        lacks = next((lacking.get(word, word) for word in check.after if word in {*failed, *lacking}), "")
        if check.word in skip:
            lines.append(_line("left out", check, skip[check.word]))
        elif lacks:
            lacking[check.word] = lacks
        elif not check.after or checks.concerns(check):
            fault = _fault(checks, check)
            failed += [check.word] if fault else []
            lines.append(_line("FAILED" if fault else "ok", check, fault))
    for lacks in dict.fromkeys(lacking.values()):
        words = ", ".join(word for word, why in lacking.items() if why == lacks)
        lines.append(f"  not tried, for {lacks} does not hold: {words}")
    return lines, len(failed)


def _fault(checks: Checks, check: Check) -> str:
    try:
        # Only once the options are taken it is known which of them are secrets.
        with environment(checks.bench.environment if check.after else {}):
            check.attempt()
    except Exception as error:
        return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return ""


def _line(how: str, check: Check, why: str) -> str:
    """A line of the checklist, and below it why."""
    below = why.strip().splitlines()[:20]
    return "\n".join([f"  {how:<8}  {check.word:<11}  {check.text}", *(f"{' ' * 25}{line}" for line in below)])

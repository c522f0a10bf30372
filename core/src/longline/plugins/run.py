"""A run as plugins see it, which they read, and as the spine has it, which alone moves it on."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from longline import artifacts
from longline.config.dump import dump_resolved
from longline.config.secrets import Secrets
from longline.errors import LonglineError
from longline.events import Alert, AlertLevel, Summary
from longline.methods import find
from longline.plugins.base import described
from longline.plugins.bus import Bus, Contained, HookRelay
from longline.plugins.metrics import numbers
from longline.process.signals import StopRequest
from longline.text import showable

if TYPE_CHECKING:
    from longline.config.loader import LoadedConfig
    from longline.config.sections import Config
    from longline.events import Column, Role
    from longline.methods.base import Method, Output
    from longline.plan import Plan
    from longline.plugins.account import Account
    from longline.plugins.base import LoadedPlugin
    from longline.resuming.comparing import GoingOn

logger = logging.getLogger("longline.plugins")

Phase = Literal["start", "arguments", "tokenizer", "data", "model", "trainer", "train", "save", "end"]
Command = Literal["train", "plan", "preprocess", "preview", "evaluate", "generate", "merge"]
TRAINS: tuple[Command, ...] = ("train", "plan")
"""The commands that are about a run; the others load and prepare for something else, without a tracker's key or a log."""


class State:
    """What the spine and the stages know of a run. `view` is the `Run` that hooks are handed.

    `core` are the objects of the core that answer hooks after the plugins: (name, object).
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        plan: Plan,
        plugins: Sequence[LoadedPlugin],
        *,
        core: Sequence[tuple[str, object]] = (),
        rank: int = 0,
        command: Command = "train",
    ) -> None:
        self.id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.loaded = loaded
        self.plan = plan
        self.plugins = tuple(plugins)
        self.rank = rank
        self.command: Command = command
        self.bus = Bus(plugins, core=core, on_failure=self._contained)
        self.view = Run(self)
        self.phase: Phase = "start"
        self.stop = StopRequest()
        self.summary = Summary()
        self.added_metrics: set[str] = set()
        self.started = artifacts.now()
        self.going_on: GoingOn | None = None
        """What a resumed run goes on with."""
        self.models: dict[str, dict[str, str]] = {}
        """What tells each model that was loaded from others, by its role."""
        self.restored: Mapping[str, Any] = {}
        """What `Plugin.restore` is handed when a resumed run begins to train, by plugin."""
        self.tuned: Path | None = None
        self.method = find(loaded.config.method)
        self.output: Output = self.method.output
        self.columns: tuple[Column, ...] = ()
        self.seconds: Callable[[], dict[str, float]] = dict
        """How long each stage took so far."""
        self.alerts: Callable[[], list[dict[str, Any]]] = list
        """What was told so far."""
        self.trainer: Any = None
        self.further: list[Any] = []
        """Models that were loaded beside policy and reference, to be placed by the trainer."""
        self.start: dict[str, Any] = {}
        """What the adapter took from the base when it began; empty if nothing."""
        self.load_model: Callable[[str, Role, Mapping[str, Any]], Any] | None = None
        """Set by the stages once a model can be loaded."""
        self.load_tokenizer: Callable[[str, Mapping[str, Any]], Any] | None = None
        """Set by the stages once a model can be loaded."""
        self.told: list[tuple[str, str, str]] = []
        """The facts of plugins: (name, value, why)."""
        options = {plugin.name: plugin.options for plugin in plugins}
        self.secrets = Secrets.of(loaded.config, options)
        self.resolved = dump_resolved(loaded, options)

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that talks."""
        return self.rank == 0

    def _contained(self, failure: Contained) -> None:
        """Log a plugin's first failure in a hook with its traceback, and tell everybody; the text is foreign, so it is masked."""
        text = f"{failure.plugin.label} failed in {failure.hook}: {described(failure.error)}"
        trace = "".join(traceback.format_exception(failure.error))
        mask = self.view.mask
        logger.warning("%s\n%s", mask(text), mask(trace).rstrip())
        hint = getattr(failure.error, "hint", None)
        end = "training goes on, later failures of this hook are only counted" + (f"; hint: {hint}" if hint else "")
        # A title of its own for each plugin: those of one title are told as one.
        self.view.alert(f"{failure.plugin.name} failed", f"{text}; {end}")

    def record(self, logs: Mapping[str, Any], step: int, epoch: float) -> None:
        """Keep the last value of every metric for the summary."""
        values = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
        tokens = int(values.pop("num_tokens", self.summary.tokens))
        metrics = {**self.summary.metrics, **values}
        self.summary = replace(self.summary, steps=step, epochs=epoch, tokens=tokens, metrics=metrics)

    def begin_at(self, step: int, tokens: int) -> None:
        """Training begins after `step`, up to which a resumed run had trained on `tokens`."""
        self.summary = replace(self.summary, steps=step, tokens=tokens, from_step=step, from_tokens=tokens)

    def replan(self, plan: Plan) -> None:
        """Take a plan that was built anew, with what plugins have told so far."""
        known = {fact.name for fact in plan.facts}
        for name, value, why in self.told:
            if name not in known:
                plan = plan.with_fact(name, value, why)
        self.plan = plan


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Run:
    """What every hook is handed: who and where this run is. It is read-only; events are raised through `run.hook`."""

    _state: State

    # --- what is known ----------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Unique among all runs: date, time and six digits."""
        return self._state.id

    @property
    def config(self) -> Config:
        """The config; it cannot be changed."""
        return self._state.loaded.config

    @property
    def config_path(self) -> Path:
        """The file that the config was read from."""
        return self._state.loaded.path

    @property
    def resolved(self) -> str:
        """The config as YAML: overrides applied, defaults written out, secrets masked."""
        return self._state.resolved

    @property
    def plan(self) -> Plan:
        """Every derived fact; built again after `pre_trainer_args`, and completed when the data is there."""
        return self._state.plan

    @property
    def method(self) -> Method:
        """The method that the config names: what it needs, tells and compares with."""
        return self._state.method

    @property
    def output(self) -> Output:
        """What the model puts out: tokens, or one score; the untuned base of a reward model puts out tokens."""
        return self._state.output

    @property
    def command(self) -> Command:
        """What a person asked for: train, or a command that loads and prepares as training does, with the same hooks."""
        return self._state.command

    @property
    def rank(self) -> int:
        """This process's place among all ranks, from 0."""
        return self._state.rank

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self._state.plan.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that talks: logs, tables, files."""
        return self._state.is_main

    @property
    def output_dir(self) -> Path:
        """The run folder."""
        return self._state.plan.output_dir

    @property
    def phase(self) -> Phase:
        """How far the run is."""
        return self._state.phase

    @property
    def started(self) -> str:
        """When the run began: UTC, ISO 8601."""
        return self._state.started

    @property
    def summary(self) -> Summary:
        """What the run has come to so far."""
        return self._state.summary

    @property
    def resumed_from(self) -> Path | None:
        """The checkpoint that this run goes on from; None for one that starts anew."""
        return self._state.going_on.checkpoint.path if self._state.going_on else None

    @property
    def tuned(self) -> Path | None:
        """The folder of tuned weights that evaluate, generate or merge load; None while training, or for the base."""
        return self._state.tuned

    @property
    def columns(self) -> tuple[Column, ...]:
        """The further columns that batches have, once the data is there: what data.keep, the method or a plugin asked for."""
        return self._state.columns

    @property
    def plugins(self) -> tuple[LoadedPlugin, ...]:
        """The enabled plugins, in the config's order."""
        return self._state.plugins

    @property
    def account(self) -> Account:
        """What every plugin cost so far."""
        return self._state.bus.account

    @property
    def hook(self) -> HookRelay:
        """The hooks: `run.hook.on_table(run=run, table=...)` raises an event."""
        return self._state.bus.hook

    def listens(self, hook: str) -> bool:
        """Whether anybody answers a hook; what nobody asks for need not be computed."""
        return bool(getattr(self.hook, hook).plugins)

    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(artifacts.checkpoints(self.output_dir))

    # --- what a plugin may do ---------------------------------------------------------------------------------------------------

    def default(self, hook: str) -> Callable[..., Any]:
        """The core's own answer to a provide hook, to build on: `run.default("provide_loss")(model=model)`."""
        call = getattr(self.hook, hook)

        def ask(**arguments: Any) -> Any:
            return call.default(run=self, **arguments)

        return ask

    def load_model(self, path: str, role: Role, **options: Any) -> Any:
        """Load a further model as a reference is: frozen, in evaluation mode, placed or sharded as the trainer's models are.

        `path` and `options` are those of the config's `model` section (`dtype`, `quantization` ...), which also gives the defaults
        of `trust_remote_code`, `token` and `attn_implementation`; the model hooks fire with `role`, such as "teacher". From
        `post_model_load` of the policy on. Before the trainer is there the model lies where it was loaded.

        Raises:
            ModelError: it cannot be loaded.
            LonglineError: it is too early.
        """
        if self._state.load_model is None:
            raise LonglineError(f"run.load_model({path!r}): in the phase {self.phase} no model can be loaded yet")
        return self._state.load_model(path, role, options)

    def load_tokenizer(self, path: str, **options: Any) -> Any:
        """Load a further model's tokenizer, as `load_model` does the model, from `post_tokenizer_load` of the policy's on.

        Raises:
            ModelError: it cannot be loaded.
            LonglineError: it is too early.
        """
        if self._state.load_tokenizer is None:
            raise LonglineError(f"run.load_tokenizer({path!r}): in the phase {self.phase} no tokenizer can be loaded yet")
        return self._state.load_tokenizer(path, options)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log metrics as an event of their own, also after training: they reach log.jsonl, manifest and trackers.

        On ranks other than the main one nothing happens. Raises TypeError for a value that is no number.
        """
        checked = numbers(metrics)
        if not self.is_main:
            return
        state = self._state
        state.added_metrics.update(checked)
        state.record(checked, state.summary.steps, state.summary.epochs)
        self.hook.on_log(run=self, logs=MappingProxyType(checked), step=state.summary.steps)

    def fact(self, name: str, value: object, why: str) -> None:
        """Tell a fact of this run, once: it stands in the plan, on the console, in the manifest and on the model card."""
        state = self._state
        state.told = [told for told in state.told if told[0] != name] + [(name, str(value), why)]
        state.plan = state.plan.with_fact(name, str(value), why)
        if self.is_main:
            self.hook.on_fact(run=self, name=name, value=str(value), why=why)

    def alert(self, title: str, text: str, level: AlertLevel = "warning") -> None:
        """Raise on_alert for something that a person should know."""
        self.hook.on_alert(run=self, alert=Alert(title, self.mask(text), level, self.summary.steps or None))

    def mask(self, text: str) -> str:
        """The text as it may be shown: without the secrets of the config, of plugins' options and of `hide`, and with control
        characters and lone surrogates written out. Console, trackers, cards and files pass what is foreign through here.
        """
        return showable(self._state.secrets.mask(text))

    def hide(self, secret: str) -> None:
        """Keep a secret that a plugin found elsewhere, as in the environment, out of all that the run writes and shows."""
        self._state.secrets.add(SecretStr(secret))

"""The spine: one run, read from top to bottom. It calls the stages and fires the lifecycle hooks; no other file fires those."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline import artifacts, stages, upstream
from longline.builtin import manifest
from longline.builtin.alerts import Alerts
from longline.builtin.clock import StageClock
from longline.builtin.console import Console
from longline.builtin.defaults import Defaults
from longline.builtin.jsonlog import JsonLog
from longline.errors import EXIT_DONE, EXIT_SIGINT, EXIT_TRAINING, Interrupted, LonglineError
from longline.parallel import machine, ranks
from longline.plan import build_plan
from longline.plugins import LoadedPlugin, load_plugins, plugin_problems, refuse_problems, watch
from longline.plugins.run import TRAINS, Command, State
from longline.process import allocator, garbage, signals, telemetry
from longline.resuming import comparing
from longline.saving import final
from longline.trainers import plugin_states

if TYPE_CHECKING:
    from longline.config.loader import LoadedConfig
    from longline.data import Prepared
    from longline.data.kinds import Kind
    from longline.events import Status, Summary


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended that did not fail: a failure is raised."""

    status: Status
    exit_code: int
    output_dir: Path
    summary: Summary


def open_run(loaded: LoadedConfig, command: Command, plugins: Sequence[LoadedPlugin] = ()) -> State:
    """Load the plugins, build the plan for this machine, and let plugins refuse what they could not do in a run.

    `plugins` are added to those that the config names. Raises PluginError and ConfigError.
    """
    telemetry.off_by_default()
    enabled = load_plugins(loaded, plugins)
    plan = build_plan(loaded.config, machine.machine(use_cpu=bool(loaded.config.trainer.get("use_cpu"))))
    if command in TRAINS:
        refuse_problems(plugin_problems(loaded, plan, enabled))
    clock, alerts = StageClock(), Alerts()
    core: list[tuple[str, object]] = [("defaults", Defaults())]
    if command in TRAINS:
        core += [("log", JsonLog()), ("clock", clock), ("alerts", alerts), ("console", Console(alerts))]
    state = State(loaded, plan, enabled, core=core, rank=ranks.rank(), command=command)
    state.seconds, state.alerts = clock.as_dict, alerts.as_list
    return state


def prepare(loaded: LoadedConfig, command: Command) -> tuple[Kind, Any, Prepared]:
    """Kind of row, tokenizer and data as training would have them: with the same hooks, under the same key of the cache."""
    from longline.data.kinds import load

    state = open_run(loaded, command)
    stages.trainer_arguments(state)
    tokenizer = stages.tokenizer(state)
    return load(state.method.kind), tokenizer, stages.data(state, tokenizer)


def train(
    loaded: LoadedConfig,
    *,
    resume: str | None = None,
    weights_only: bool = False,
    overwrite: bool = False,
    plugins: Sequence[LoadedPlugin] = (),
) -> RunResult:
    """Fine-tune as the config says.

    `resume` is `last` or the path of a checkpoint, of which `weights_only` takes weights and place in the data alone; `overwrite`
    deletes an earlier run in the same folder; `plugins` are added to those that the config names (for notebooks and tests). Raises
    LonglineError, or what a library raised, after every plugin has seen `on_run_end`; an interruption is no error but a result
    with status `interrupted`.
    """
    going_on = None
    if resume:
        loaded, going_on = comparing.begin(loaded, resume, weights_only=weights_only)
    state = open_run(loaded, "train", plugins)
    state.going_on = going_on
    try:
        return _whole(state, overwrite)
    except BaseException as error:
        error.mask = state.view.mask  # type: ignore[attr-defined]  # for whoever shows it: its text may quote the config
        raise
    finally:
        garbage.thaw()


def _whole(state: State, overwrite: bool) -> RunResult:
    """Claim the folder, go through the stages, and end the run exactly once, however they went."""
    status: Status = "failed"
    code = EXIT_TRAINING
    run = state.view
    with ExitStack() as stack:
        if run.is_main:
            resumed = state.going_on is not None
            stack.enter_context(
                artifacts.claim(run.output_dir, resume=resumed, overwrite=overwrite, files=manifest.files(state))
            )
            stack.enter_context(comparing.untouched(state.going_on, run.plan.manifest_path))
            if not resumed:
                artifacts.write_config(run.plan.config_path, state.resolved)
        found = plugin_states.read(run.resumed_from, state.plugins, run.rank) if run.resumed_from else plugin_states.NOTHING
        state.restored = found.states
        ended = signals.handling(
            state.stop, lambda signum: manifest.write(state, "interrupted", 128 + signum), talks=run.is_main
        )
        stack.enter_context(ended)
        slow = stack.enter_context(watch.watching(state.bus, run.mask))
        try:
            manifest.write(state, "running", None)
            _stages(state, found.notes)
            status, code = "completed", EXIT_DONE
        except (Interrupted, KeyboardInterrupt) as stop:  # a library may have put the second in the place of the first
            status, code = "interrupted", getattr(stop, "exit_code", EXIT_SIGINT)
        except BaseException as error:
            code = error.exit_code if isinstance(error, LonglineError) else EXIT_TRAINING
            run.hook.on_error(run=run, error=error)
            raise
        finally:
            state.phase = "end"
            state.stop.defer("ending the run")
            if status != "failed":  # then every rank comes here
                _hear_other_ranks(state)
            for text in slow.totals():
                run.alert("a slow plugin", text)
            try:
                run.hook.on_run_end(run=run, status=status, summary=run.summary)
            finally:
                manifest.close(state, status, code)
    return RunResult(status, code, run.output_dir, run.summary)


def _stages(state: State, notes: Sequence[str]) -> None:
    """The stages, in order."""
    run = state.view
    run.hook.on_run_start(run=run)
    for note in notes:
        run.alert("resumed", note, "info")
    if state.going_on:
        comparing.tell(state, state.going_on)
    for found in upstream.untested():
        run.alert("version not tested", f"{found}; if something goes wrong, install one of those first")
    with garbage.paused():  # nearly all that is imported is imported here
        args = stages.arguments(state)
        rewards = stages.rewards(state)
        tokenizer = stages.tokenizer(state)
    data = stages.data(state, tokenizer)
    for warning in data.report.warnings:
        run.alert("data", warning)
    if state.going_on:
        comparing.judge_rows(state, state.going_on, data)
    model = stages.model(state, args, tokenizer)
    reference = stages.reference(state, args, tokenizer)
    if state.going_on:
        comparing.judge_models(state, state.going_on)
    trainer = stages.trainer(state, args, stages.Ingredients(tokenizer, data, model, reference, rewards))
    if state.going_on:
        comparing.judge_trained(state, state.going_on)
    trainer.record = cache(lambda: comparing.record(state, data))  # its rows are looked at when the first checkpoint is made
    state.stop.check()  # a library may have swallowed what the signal raised
    final.rehearse(state, trainer)
    state.stop.defer("finishing this step and saving a checkpoint")
    _train(state, trainer)
    if state.stop.obeyed and trainer.state.global_step < trainer.state.max_steps:
        state.stop.check()
    state.stop.defer("the last step is done, saving the model")
    final.save(state, trainer)
    run.hook.on_save(run=run, path=run.plan.model_dir)
    if not any(ranks.gathered(state.stop.requested)):  # who asked for the end while it was saved waits for nothing more
        state.stop.doing = None
        run.hook.on_trained(run=run, trainer=trainer)


def _train(state: State, trainer: Any) -> None:
    from transformers import PrinterCallback

    from longline.trainers.bridge import HookBridge
    from longline.trainers.going_on import NothingLeftError, restore_callbacks
    from longline.trainers.trainer import EvaluationStoppedError

    state.phase = "train"
    trainer.add_callback(HookBridge(state, trainer))
    trainer.remove_callback(PrinterCallback)
    begin = time.perf_counter()
    going_on = state.going_on
    if going_on:
        restore_callbacks(trainer, going_on.checkpoint)
        trainer.begins_anew_at = going_on.checkpoint.step if going_on.weights_only else None
        trainer.args.eval_on_start = False  # the run has started long ago
    try:
        with allocator.keeping() if trainer.args.device.type == "cpu" else nullcontext():
            trainer.train(resume_from_checkpoint=str(going_on.checkpoint.path) if going_on else None)
    except EvaluationStoppedError:
        pass  # the one before the first step: there is nothing to save
    except NothingLeftError as told:
        if not state.stop.obeyed:
            state.view.alert("nothing is left to train", str(told), "info")
            upstream.transformers.load_best(trainer)
    finally:
        seconds = time.perf_counter() - begin
        state.summary = replace(state.summary, train_seconds=seconds, steps=trainer.state.global_step)
    state.view.hook.on_train_end(run=state.view, trainer=trainer)


def _hear_other_ranks(state: State) -> None:
    """Count what failed on other ranks in the account of the main one, which tells of it."""
    run = state.view
    for rank, failures in enumerate(ranks.gathered(run.account.failed())):
        if not run.is_main or not rank:
            continue
        run.account.add_failures(rank, failures)
        for name, hooks in failures.items():
            for hook, (count, error) in hooks.items():
                run.alert(f"a plugin failed on rank {rank}", f"{name} failed {count} times in {hook}, the last time: {error}")

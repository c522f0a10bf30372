"""The spine: one run, read from top to bottom. It calls the stages and fires the lifecycle hooks; no other file fires those."""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from longline import artifacts
from longline.builtin.clock import StageClock
from longline.builtin.console import Console
from longline.builtin.defaults import Defaults
from longline.builtin.jsonlog import JsonLog
from longline.config.dump import dump_resolved
from longline.config.secrets import Secrets
from longline.errors import EXIT_DONE, EXIT_TRAINING, ConfigError, DataError, Interrupted, LonglineError
from longline.events import Alert, AlertLevel, Column, RewardFunction, Role, Status, Summary
from longline.parallel import machine, ranks
from longline.plan import METHODS, Plan, build_plan
from longline.plugins import Account, Bus, Contained, LoadedPlugin, load_plugins
from longline.process import allocator, garbage, signals, telemetry

if TYPE_CHECKING:
    from longline.config.loader import LoadedConfig
    from longline.config.sections import Config
    from longline.data import Prepared

logger = logging.getLogger("longline.plugins")

Phase = Literal["start", "arguments", "tokenizer", "data", "model", "trainer", "train", "save", "end"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended that did not fail: a failure is raised."""

    status: Status
    exit_code: int
    output_dir: Path
    summary: Summary


class Run:
    """What every hook is handed: who and where this run is. Plugins read it; they raise events through `run.hook`."""

    def __init__(self, loaded: LoadedConfig, plan: Plan, plugins: Sequence[LoadedPlugin]) -> None:
        self.id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.loaded = loaded
        self.config: Config = loaded.config
        self.plan = plan
        self.plugins = tuple(plugins)
        self.clock = StageClock()
        core = [("defaults", Defaults()), ("log", JsonLog()), ("stages", self.clock), ("console", Console())]
        self.bus = Bus(plugins, core=core, on_failure=self._contained)
        self.hook = self.bus.hook
        self.rank = ranks.rank()
        self.world_size = plan.world_size
        self.output_dir = plan.output_dir
        self.phase: Phase = "start"
        self.stop = signals.StopRequest()
        self.summary = Summary()
        self.added_metrics: set[str] = set()
        self.columns: tuple[Column, ...] = ()
        self.started = artifacts.now()
        options = {plugin.name: plugin.options for plugin in plugins}
        self._secrets = Secrets.collect(loaded.config, options)
        self.resolved = dump_resolved(loaded, options)

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that talks: logs, tables, files."""
        return self.rank == 0

    @property
    def account(self) -> Account:
        """What every plugin cost so far."""
        return self.bus.account

    def listens(self, hook: str) -> bool:
        """Whether anybody answers a hook; what nobody asks for need not be computed."""
        return bool(getattr(self.hook, hook).plugins)

    def mask(self, text: str) -> str:
        """The text without the secrets of the config, of plugins' options and of `hide`."""
        return self._secrets.mask(text)

    def hide(self, secret: str) -> None:
        """Keep a secret that a plugin found elsewhere, as in the environment, out of all that the run writes and shows."""
        self._secrets.add(SecretStr(secret))

    def _contained(self, failure: Contained) -> None:
        """Log a plugin's first failure in a hook with its traceback, and tell everybody; the text is foreign, so it is masked."""
        text = f"{failure.plugin.label} failed in {failure.hook}: {type(failure.error).__name__}: {failure.error}"
        trace = "".join(traceback.format_exception(failure.error))
        logger.warning("%s\n%s", self.mask(text), self.mask(trace).rstrip())
        self.alert("a plugin failed", f"{text}; training goes on, later failures of this hook are only counted")

    def alert(self, title: str, text: str, level: AlertLevel = "warning") -> None:
        """Raise on_alert for something that a person should know."""
        self.hook.on_alert(run=self, alert=Alert(title, self.mask(text), level, self.summary.steps or None))

    def record(self, logs: Mapping[str, Any], step: int, epoch: float) -> None:
        """Keep the last value of every metric for the summary."""
        numbers = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
        tokens = int(numbers.pop("num_tokens", self.summary.tokens))
        metrics = {**self.summary.metrics, **numbers}
        self.summary = replace(self.summary, steps=step, epochs=epoch, tokens=tokens, metrics=metrics)

    def left_behind(self) -> list[tuple[str, Path]]:
        """What the run folder holds, for people: (what, where)."""
        plan = self.plan
        files = [
            ("model", plan.model_dir),
            ("log", plan.log_path),
            ("manifest", plan.manifest_path),
            ("config", plan.config_path),
        ]
        found = [(name, path) for name, path in files if path.exists()]
        return found + [("checkpoint", path) for path in artifacts.checkpoints(self.output_dir)[-1:]]

    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(artifacts.checkpoints(self.output_dir))


def train(
    loaded: LoadedConfig,
    *,
    resume: str | None = None,
    overwrite: bool = False,
    plugins: Sequence[LoadedPlugin] = (),
) -> RunResult:
    """Fine-tune as the config says.

    `resume` is `last` or the path of a checkpoint; `overwrite` deletes an earlier run in the same folder; `plugins` are added
    to those that the config names (for notebooks and tests). Raises LonglineError, or what a library raised, after every
    plugin has seen `on_run_end`; an interruption is no error but a result with status `interrupted`.
    """
    telemetry.off_by_default()
    enabled = load_plugins(loaded, plugins)
    this = machine.machine(use_cpu=bool(loaded.config.trainer.get("use_cpu")))
    run = Run(loaded, build_plan(loaded.config, this), enabled)
    try:
        return _whole(run, resume, overwrite)
    except BaseException as error:
        error.mask = run.mask  # type: ignore[attr-defined]  # for whoever shows it: its text may quote the config
        raise
    finally:
        garbage.thaw()


def _whole(run: Run, resume: str | None, overwrite: bool) -> RunResult:
    """Claim the folder, go through the stages, and end the run exactly once, however they went."""
    status: Status = "failed"
    code = EXIT_TRAINING
    with ExitStack() as stack:
        if run.is_main:
            claimed = artifacts.claim(run.output_dir, resume=bool(resume), overwrite=overwrite, files=_files(run))
            stack.enter_context(claimed)
            artifacts.write_config(run.plan.config_path, run.resolved)
        resume_from = artifacts.resume_point(run.output_dir, resume) if resume else None
        ended = signals.handling(run.stop, lambda signum: _write_manifest(run, "interrupted", 128 + signum), talks=run.is_main)
        stack.enter_context(ended)
        try:
            _write_manifest(run, "running", None)
            _stages(run, resume_from)
            status, code = "completed", EXIT_DONE
        except Interrupted as stop:
            status, code = "interrupted", stop.exit_code
        except BaseException as error:
            code = error.exit_code if isinstance(error, LonglineError) else EXIT_TRAINING
            run.hook.on_error(run=run, error=error)
            raise
        finally:
            run.phase = "end"
            run.stop.defer("ending the run")
            try:
                run.hook.on_run_end(run=run, status=status, summary=run.summary)
            finally:
                _close_manifest(run, status, code)
    return RunResult(status, code, run.output_dir, run.summary)


# --- the stages, in order -------------------------------------------------------------------------------------------------------


def _stages(run: Run, resume_from: Path | None) -> None:
    run.hook.on_run_start(run=run)
    with garbage.paused():  # nearly all that is imported is imported here
        args = _arguments(run)
        rewards = _rewards(run)
        tokenizer = _tokenizer(run)
    data = _data(run, tokenizer)
    model = _model(run, tokenizer)
    reference = _reference(run, args, tokenizer)
    trainer = _trainer(run, args, Ingredients(tokenizer, data, model, reference, rewards))
    run.stop.check()  # a library may have swallowed what the signal raised
    run.stop.defer("finishing this step and saving a checkpoint")
    _train(run, trainer, resume_from)
    if run.stop.obeyed and trainer.state.global_step < trainer.state.max_steps:
        run.stop.check()
    run.stop.defer("the last step is done, saving the model")
    _save(run, trainer)


def _arguments(run: Run) -> Any:
    """Build the trainer's arguments first: what their class refuses is known before anything is loaded."""
    from transformers import logging as transformers_logging

    from longline.trainers import method

    run.phase = "arguments"
    transformers_logging.set_verbosity(logging.WARNING)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    trainer_args = {
        **run.plan.trainer_args,
        "output_dir": str(run.output_dir),
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
    }
    if run.config.early_stopping:
        trainer_args.setdefault("metric_for_best_model", "loss")
    run.hook.pre_trainer_args(run=run, trainer_args=trainer_args)
    args = method(run.config.method).arguments(trainer_args)
    if args.n_gpu > 1:
        # Otherwise transformers would spread each batch over all of them by threads, which is slow and changes the batch.
        run.alert("one GPU is used", f"this machine has {args.n_gpu}; --nproc {args.n_gpu} trains on all of them")
        args._n_gpu = 1
    return args


def _rewards(run: Run) -> Sequence[RewardFunction]:
    """Import what scores answers before anything is loaded: a typo shall not cost the loading of a model."""
    if not METHODS[run.config.method].answers:
        return ()
    from longline.methods.rewards import refuse_names

    found: Sequence[RewardFunction] | None = run.hook.provide_reward_functions(run=run)
    if not found:
        raise ConfigError(
            f"{run.config.method} needs at least one reward function", hint="rewards: [reasoning_gym], or your own"
        )
    refuse_names(found)
    return found


def _tokenizer(run: Run) -> Any:
    from longline import model as models

    run.phase = "tokenizer"
    kwargs = models.tokenizer_kwargs(run.config.model)
    run.hook.pre_tokenizer_load(run=run, tokenizer_kwargs=kwargs)
    tokenizer = models.load_tokenizer(run.config.model, kwargs)
    run.hook.post_tokenizer_load(run=run, tokenizer=tokenizer)
    return tokenizer


def _data(run: Run, tokenizer: Any) -> Prepared:
    from longline.data import prepare
    from longline.data.kinds import load

    run.phase = "data"
    run.hook.pre_data_load(run=run)
    with ranks.main_rank_first():
        kind = load(run.plan.kind)
        data = prepare(run.config.data, tokenizer, kind=kind, packing=run.plan.packing, seed=run.plan.seed)
    run.columns = data.columns
    try:
        run.plan = run.plan.with_rows(len(data.train))
    except ValueError as error:
        hint = "add prompts, or lower per_device_train_batch_size, gradient_accumulation_steps or steps_per_generation"
        raise DataError(f"too few rows to train on: {error}", hint=hint) from error
    run.summary = replace(run.summary, data=data.report.to_dict())
    run.hook.post_data_load(run=run, data=data)
    for warning in data.report.warnings:
        run.alert("data", warning)
    return data


def _model(run: Run, tokenizer: Any) -> Any:
    from longline import model as models

    run.phase = "model"
    model = _load(run, tokenizer, "policy")
    if run.plan.packing:
        models.require_isolation(model)
    run.hook.post_model_load(run=run, model=model, role="policy")
    if run.config.adapter is None:
        return model
    config = models.adapter_config(run.config.adapter, run.plan.head)
    models.train_new_tokens(config, run.config.model, tokenizer)
    run.hook.pre_adapter_create(run=run, adapter_config=config)
    checkpointing = any(run.plan.trainer_args.get(name) for name in ("gradient_checkpointing", "activation_checkpointing"))
    model = models.attach_adapter(model, config, activation_checkpointing=checkpointing)
    run.hook.post_adapter_create(run=run, model=model)
    return model


def _load(run: Run, tokenizer: Any, role: Role) -> Any:
    from transformers import set_seed

    from longline import model as models

    # New embeddings and adapters start from random numbers: the same ones in every run of this config, on every rank, and in
    # policy and reference.
    set_seed(run.plan.seed)
    kwargs = models.model_kwargs(run.config.model, run.plan.dtype, run.plan.head)
    run.hook.pre_model_load(run=run, model_kwargs=kwargs, role=role)
    model = models.load_model(run.config.model, kwargs, run.plan.head)
    models.resize_embeddings(model, tokenizer)
    return model


def _reference(run: Run, args: Any, tokenizer: Any) -> Any:
    """Load what the policy is compared with; under an adapter it is the policy with the adapter switched off."""
    from longline.trainers import method

    if run.config.adapter is not None or not method(run.config.method).needs_reference(args):
        return None
    model = _load(run, tokenizer, "reference").requires_grad_(False).eval()
    run.hook.post_model_load(run=run, model=model, role="reference")
    return model


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What the stages before the trainer made."""

    tokenizer: Any
    data: Prepared
    model: Any
    reference: Any
    rewards: Sequence[RewardFunction]


def _trainer(run: Run, args: Any, made: Ingredients) -> Any:
    from transformers import EarlyStoppingCallback

    from longline.trainers import Parts, method
    from longline.trainers.bridge import HookBridge

    run.phase = "trainer"
    parts = Parts(
        model=made.model,
        reference=made.reference,
        tokenizer=made.tokenizer,
        train=made.data.train,
        eval=made.data.eval,
        rewards=made.rewards,
        describe_rows=lambda rows: ", ".join(made.data.origin("train", row) for row in rows),
        trainer_class=run.hook.provide_trainer_class(run=run),
        collator=run.hook.provide_collator(run=run, tokenizer=made.tokenizer),
    )
    loss = run.hook.provide_loss(run=run, model=made.model)
    trainer: Any = method(run.config.method).build(parts, args)
    trainer.attach(run, loss, parts.describe_rows)
    if run.config.early_stopping:
        stopping = run.config.early_stopping
        trainer.add_callback(EarlyStoppingCallback(stopping.patience, stopping.threshold))
    run.hook.post_trainer_create(run=run, trainer=trainer)
    trainer.add_callback(HookBridge(run, trainer))
    return trainer


def _train(run: Run, trainer: Any, resume_from: Path | None) -> None:
    from transformers.trainer_callback import PrinterCallback

    from longline.trainers.trainer import EvaluationStoppedError

    run.phase = "train"
    trainer.remove_callback(PrinterCallback)
    begin = time.perf_counter()
    try:
        with allocator.keeping() if trainer.args.device.type == "cpu" else nullcontext():
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except EvaluationStoppedError:
        pass  # the one before the first step: there is nothing to save
    finally:
        seconds = time.perf_counter() - begin
        run.summary = replace(run.summary, train_seconds=seconds, steps=trainer.state.global_step)
    run.hook.on_train_end(run=run, trainer=trainer)


def _save(run: Run, trainer: Any) -> None:
    run.phase = "save"
    # The trainer switched the cache off; whoever loads the model wants to generate with it.
    trainer.accelerator.unwrap_model(trainer.model).config.use_cache = True

    if run.is_main:
        adapter = run.config.adapter.type if run.config.adapter else None
        # How fast it went, and whatever else plugins measure, is not what the model is like.
        metrics = {name: value for name, value in run.summary.metrics.items() if name not in run.added_metrics}
        card = artifacts.model_card(run.plan, run.config.model.path, adapter, metrics, run.resolved)
        artifacts.save_model(run.plan.model_dir, trainer.save_final, card)
    else:
        trainer.save_final(run.plan.model_dir)  # takes part in gathering shards, writes nothing
    trainer.accelerator.wait_for_everyone()
    run.hook.on_save(run=run, path=run.plan.model_dir)


# --- the manifest ---------------------------------------------------------------------------------------------------------------


def _close_manifest(run: Run, status: Status, exit_code: int) -> None:
    """Write how the run ended. On a disk that is full, what made the run fail is the better thing to tell."""
    try:
        _write_manifest(run, status, exit_code)
    except OSError as error:
        if status != "failed":
            raise artifacts.not_written(error, run.plan.manifest_path) from error


def _files(run: Run) -> list[str]:
    """What plugins write into the run folder, by their own account."""
    return sorted({name for plugin in run.plugins for name in getattr(plugin.instance, "files", ())})


def _write_manifest(run: Run, status: str, exit_code: int | None) -> None:
    if not run.is_main:
        return
    account = run.bus.account
    content = {
        "id": run.id,
        "status": status,
        "exit_code": exit_code,
        "started": run.started,
        "ended": artifacts.now() if exit_code is not None else None,
        "method": run.config.method,
        "model": run.config.model.path,
        "world_size": run.world_size,
        "plan": {fact.name: fact.value for fact in run.plan.facts},
        "versions": artifacts.versions(),
        "plugins": [{"name": p.name, "distribution": p.distribution, "version": p.version} for p in run.plugins],
        "files": _files(run),
        "data": run.summary.data,
        "summary": {
            "steps": run.summary.steps,
            "epochs": run.summary.epochs,
            "train_seconds": round(run.summary.train_seconds, 3),
            "tokens": run.summary.tokens,
            "metrics": run.summary.metrics,
        },
        "stages": run.clock.as_dict(),
        "hooks": account.as_dict(),
    }
    artifacts.write_manifest(run.plan.manifest_path, content, run.mask)

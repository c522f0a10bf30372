"""What must fit together in `trainer:`, and between it and the rest of a config; see `checks`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from longline.config import unread
from longline.config.check import Check, adder
from longline.config.explain import nearest
from longline.config.method import find
from longline.upstream.transformers import ADAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from longline.config.loader import LoadedConfig
    from longline.config.sections import Config
    from longline.errors import Problem

CHECKS: list[Check] = []
"""Those that hold for all methods."""
_check = adder(CHECKS)


def _has_eval(config: Config) -> bool:
    return bool(config.data.eval) or config.data.eval_fraction is not None


def _eval_strategy(config: Config) -> str:
    """As the plan decides it: with evaluation data and nothing said, once an epoch."""
    if "eval_strategy" in config.trainer:
        return str(config.trainer["eval_strategy"])
    if not _has_eval(config):
        return "no"
    return "steps" if "eval_steps" in config.trainer else "epoch"


@_check(
    "data.eval",
    "data.eval_fraction",
    "trainer.eval_strategy",
    "trainer.load_best_model_at_end",
    "trainer.lr_scheduler_type",
    "early_stopping",
)
def eval_has_data(loaded: LoadedConfig) -> Iterator[Problem]:
    """What evaluates needs rows to evaluate on, and what decides by evaluation needs one."""
    config, trainer = loaded.config, loaded.config.trainer
    needs: list[tuple[str, ...]] = [
        ("trainer", name) for name in ("eval_steps", "eval_on_start", "metric_for_best_model") if trainer.get(name)
    ]
    if trainer.get("greater_is_better") is not None:
        needs.append(("trainer", "greater_is_better"))
    if trainer.get("load_best_model_at_end") is True:
        needs.append(("trainer", "load_best_model_at_end"))
    if trainer.get("lr_scheduler_type") in {"reduce_lr_on_plateau", "greedy"}:
        needs.append(("trainer", "lr_scheduler_type"))
    if trainer.get("save_strategy") == "best":
        needs.append(("trainer", "save_strategy"))
    if config.early_stopping is not None:
        needs.append(("early_stopping",))
    if not _has_eval(config):
        if trainer.get("eval_strategy", "no") != "no":
            needs.insert(0, ("trainer", "eval_strategy"))
        hint = "add data.eval, or data.eval_fraction: 0.05"
        for keys in needs:
            yield loaded.problem("needs evaluation data, and there is none", *keys, hint=hint)
    elif _eval_strategy(config) == "no":
        for keys in needs:
            yield loaded.problem(
                "needs evaluations, but trainer.eval_strategy is no", *keys, hint="set trainer.eval_strategy: steps or epoch"
            )


@_check(
    "data.eval",
    "data.eval_fraction",
    "trainer.eval_strategy",
    "trainer.save_strategy",
    "trainer.load_best_model_at_end",
    "trainer.save_steps",
    "trainer.eval_steps",
    "trainer.logging_steps",
)
def best_model_is_saved(loaded: LoadedConfig) -> Iterator[Problem]:
    """The best model can be loaded at the end only if it was saved when it was evaluated."""
    trainer = loaded.config.trainer
    evaluates, saves = _eval_strategy(loaded.config), str(trainer.get("save_strategy", "steps"))
    if trainer.get("load_best_model_at_end") is not True or "no" in {evaluates} or saves == "best":
        return
    keys = ("trainer", "load_best_model_at_end")
    if evaluates != saves:
        text = f"evaluates by {evaluates} but saves by {saves}, so the best model may not be saved"
        yield loaded.problem(text, *keys, hint=f"set trainer.save_strategy: {evaluates}, or best")
    elif evaluates == "steps":
        # 10 is Longline's own `logging_steps`, 500 the `save_steps` of transformers.
        every, save = trainer.get("eval_steps") or trainer.get("logging_steps", 10), trainer.get("save_steps", 500)
        if not _is_multiple(save, every):
            text = f"saves every {save:g} steps, which is no multiple of the {every:g} between evaluations"
            yield loaded.problem(text, *keys, hint=f"set trainer.save_steps: {every:g}, or save_strategy: best")


@_check("trainer.greater_is_better", "trainer.metric_for_best_model", "trainer.load_best_model_at_end", "early_stopping")
def best_is_less_loss(loaded: LoadedConfig) -> Iterator[Problem]:
    """The greatest loss is nobody's best one."""
    metric = str(loaded.config.trainer.get("metric_for_best_model") or "loss")
    if loaded.config.trainer.get("greater_is_better") is True and metric.endswith("loss"):
        hint = "remove it: less of a loss is better"
        yield loaded.problem(
            f"the best model would be the one with the greatest {metric}", "trainer", "greater_is_better", hint=hint
        )


_TIMES = ("runtime", "samples_per_second", "steps_per_second")
"""What transformers adds to every evaluation."""


def unmeasured(loaded: LoadedConfig) -> list[Problem]:
    """A number to choose the best model by that no evaluation gives, as far as the method knows.

    Apart from the checks, since a plugin's trainer may give others.
    """
    metric, names = loaded.config.trainer.get("metric_for_best_model"), find(loaded.config.method).measures()
    known = {*_TIMES, *(names or ())}
    wanted = str(metric).removeprefix("eval_")
    if metric is None or names is None or any(fnmatchcase(wanted, name) for name in known):
        return []
    hint = nearest(wanted, known) or f"it gives {', '.join(sorted(known - {*_TIMES}))}"
    text = f"an evaluation of {loaded.config.method} gives no {wanted!r}"
    return [loaded.problem(text, "trainer", "metric_for_best_model", hint=hint)]


def _is_multiple(many: float, one: float) -> bool:
    if (many < 1) != (one < 1):
        return False  # a share of all steps beside a count: nobody knows yet
    # Shares of all steps are no exact numbers: 0.3 is not three times 0.1.
    return round(many * 1_000_000) % max(1, round(one * 1_000_000)) == 0


@_check("trainer.logging_steps", "trainer.save_steps", "trainer.eval_steps")
def steps_are_whole(loaded: LoadedConfig) -> Iterator[Problem]:
    """Below 1 they are a share of all steps; above, a count."""
    for name in ("logging_steps", "save_steps", "eval_steps"):
        value = loaded.config.trainer.get(name)
        if isinstance(value, float) and value > 1 and not value.is_integer():
            yield loaded.problem(
                f"must be a whole number above 1, or a share of all steps below it, got {value:g}", "trainer", name
            )


@_check("trainer.dataloader_num_workers", "trainer.dataloader_prefetch_factor", "trainer.dataloader_persistent_workers")
def workers(loaded: LoadedConfig) -> Iterator[Problem]:
    """What configures workers needs some."""
    trainer = loaded.config.trainer
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if trainer.get(name) and not trainer.get("dataloader_num_workers"):
            yield loaded.problem(
                "needs data loader workers", "trainer", name, hint="set trainer.dataloader_num_workers: 1 or more"
            )


@_check("trainer.optim", "trainer.optim_args", "trainer.optim_target_modules", *(f"trainer.{name}" for name in ADAM))
def optimizer_reads(loaded: LoadedConfig) -> Iterator[Problem]:
    """What the optimizer does not read would be set in vain."""
    trainer = loaded.config.trainer
    fields = [name for name in (*ADAM, "optim_target_modules") if trainer.get(name) is not None]
    optimizer = str(trainer.get("optim") or "adamw_torch")
    read = unread.by_optimizer(optimizer) if fields or trainer.get("optim_args") else None
    if read is None or trainer.get("deepspeed"):
        return
    for name in fields:
        if name not in read[0]:
            yield loaded.problem(f"{optimizer} does not read it", "trainer", name, hint="remove it, or choose another optim")
    known = f"it reads {', '.join(sorted(read[1]))}" if read[1] else f"remove it; {_fields_read(read[0])}"
    for pair in filter(None, (trainer.get("optim_args") or "").replace(" ", "").split(",")):
        name, equals, _ = pair.partition("=")
        if not equals or "=" in _:
            yield loaded.problem(f"expected name=value, got {pair!r}", "trainer", "optim_args", hint="name=value,other=value")
        elif name not in read[1] and unread.ANY not in read[1]:
            hint = nearest(name, read[1]) or known
            yield loaded.problem(f"{optimizer} does not read {name!r}", "trainer", "optim_args", hint=hint)


def _fields_read(read: Iterable[str]) -> str:
    """What can be set of an optimizer without arguments of its own."""
    return (
        f"{', '.join(name for name in ('learning_rate', 'weight_decay', *ADAM) if name in read or name not in ADAM)} are fields"
    )


@_check("trainer.lr_scheduler_type", "trainer.lr_scheduler_kwargs", "trainer.warmup_steps", "trainer.optim")
def scheduler_reads(loaded: LoadedConfig) -> Iterator[Problem]:
    """What the scheduler does not read would be set in vain; wrong names would end the run after the model was loaded."""
    trainer = loaded.config.trainer
    options = trainer.get("lr_scheduler_kwargs") or {}
    with suppress(ValueError):  # transformers takes JSON too
        options = json.loads(options) if isinstance(options, str) else options
    scheduler, optimizer = str(trainer.get("lr_scheduler_type") or "linear"), str(trainer.get("optim") or "adamw_torch")
    read = unread.by_scheduler(scheduler) if options or trainer.get("warmup_steps") else None
    if read is None or trainer.get("deepspeed"):
        return
    warms = read[0] or "warmup_steps" in (unread.by_optimizer(optimizer) or (("warmup_steps",),))[0]
    if trainer.get("warmup_steps") and not warms:
        hint = "use constant_with_warmup" if scheduler == "constant" else "remove it"
        yield loaded.problem(f"lr_scheduler_type: {scheduler} has no warmup", "trainer", "warmup_steps", hint=hint)
    unknown = {*options} - read[1] if isinstance(options, Mapping) and unread.ANY not in read[1] else ()
    for name in sorted(unknown):
        hint = nearest(name, read[1]) or (f"it reads {', '.join(sorted(read[1]))}" if read[1] else "remove it")
        yield loaded.problem(f"{scheduler} does not read it", "trainer", "lr_scheduler_kwargs", name, hint=hint)


_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
_SWITCHES = {**{f"{name}_kwargs": _CHECKPOINTING for name in _CHECKPOINTING}, "fsdp_config": ("fsdp",)}
"""Trainer arguments that say how something is done, and what turns it on."""


@_check(*(f"trainer.{name}" for name in (*_SWITCHES, *_CHECKPOINTING, "fsdp")))
def what_is_off_has_no_options(loaded: LoadedConfig) -> Iterator[Problem]:
    """How to do what is not done, and keys that nobody reads."""
    trainer = loaded.config.trainer
    for name, switches in _SWITCHES.items():
        if trainer.get(name) and not any(trainer.get(switch) for switch in switches):
            switch = name.rpartition("_")[0]
            yield loaded.problem(f"{switch} is off", "trainer", name, hint=f"set trainer.{switch}: true, or remove it")
    options = trainer.get("fsdp_config")
    known = unread.fsdp_keys() if isinstance(options, Mapping) else frozenset()
    for key in options if known and isinstance(options, Mapping) else ():
        if key.removeprefix("fsdp_") not in known:
            yield loaded.problem("transformers does not read it", "trainer", "fsdp_config", key, hint=nearest(key, known))

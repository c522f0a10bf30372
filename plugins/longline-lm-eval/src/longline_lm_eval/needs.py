"""What an evaluation needs of a config, and what of it cannot be had; torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from longline import ConfigError, Problem
from longline_lm_eval import names

if TYPE_CHECKING:
    from longline import Config, Plan
    from longline_lm_eval.config import LmEvalConfig

HERE = "plugins.lm-eval"


def problems(options: LmEvalConfig, config: Config, plan: Plan) -> Iterator[Problem]:
    """Everything that is wrong with the options beside this config."""
    yield from task_problems(options)
    yield from _time_problems(options, plan)
    yield from _model_problems(options, config, plan)


def task_problems(options: LmEvalConfig) -> Iterator[Problem]:
    """Folders without tasks, and tasks that nobody has."""
    empty = [path for path in options.include_path if not any(path.expanduser().glob("**/*.yaml"))]
    for path in empty:
        what = "holds no YAML file" if path.expanduser().is_dir() else "is no folder"
        yield Problem(f"{path} {what}", path=f"{HERE}.include_path")
    if empty:
        return
    for name, near in names.unknown(options.tasks, folders(options)).items():
        hint = f"did you mean {near!r}?" if near else "`lm_eval ls tasks` lists the harness's; include_path brings your own"
        yield Problem(f"no task, group or tag is called {name!r}", path=f"{HERE}.tasks", hint=hint)


def folders(options: LmEvalConfig) -> tuple:
    """The folders with tasks of one's own."""
    return tuple(path.expanduser().absolute() for path in options.include_path)


def refuse_tasks(options: LmEvalConfig) -> None:
    """Raise ConfigError for folders and tasks that are not there."""
    if found := [Problem(problem.message, hint=problem.hint) for problem in task_problems(options)]:
        raise ConfigError(found)


def _time_problems(options: LmEvalConfig, plan: Plan) -> Iterator[Problem]:
    if options.every is None:
        return
    place = f"{HERE}.every"
    if plan.trainer_args.get("save_strategy") in ("no", None) and "save_strategy" in plan.trainer_args:
        yield Problem("there are no checkpoints to evaluate at", path=place, hint="trainer: {save_strategy: steps}")
    if 0 < plan.max_steps < options.every:
        yield Problem(f"the run ends after {plan.max_steps} steps", path=place, hint="lower it, or leave it out")


def _model_problems(options: LmEvalConfig, config: Config, plan: Plan) -> Iterable[Problem]:
    sharded = bool(plan.trainer_args.get("fsdp") or plan.trainer_args.get("deepspeed"))
    if plan.output != "tokens":
        yield Problem(f"{config.method} makes a model that gives a score, and the harness asks for tokens", path=HERE)
    if options.model and options.every:
        yield Problem("another model is the same at every checkpoint", path=f"{HERE}.model", hint="leave model or every out")
    if options.ranks == "main" and sharded:
        hint = "leave it out: every rank takes part"
        yield Problem("each rank has a part of the weights", path=f"{HERE}.ranks", hint=hint)
    if not options.merged:
        return
    place = f"{HERE}.merged"
    if config.adapter is None or options.model:
        yield Problem("there is no adapter to merge", path=place, hint="leave it out")
    elif config.model.quantization is not None:
        yield Problem("an adapter cannot be added to quantised weights and taken off again", path=place, hint="leave it out")
    elif sharded:
        yield Problem("an adapter is not added to weights that are spread over ranks", path=place, hint="leave it out")

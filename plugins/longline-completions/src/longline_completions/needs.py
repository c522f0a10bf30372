"""What the options ask for and a method's rows do not have: known before a run, since methods declare their columns. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from longline import Plugin, Problem, methods
from longline.plugins import import_plugin, installed
from longline_completions.names import suggestion

if TYPE_CHECKING:
    from longline import Config, Plan
    from longline.methods.base import Method
    from longline_completions.config import CompletionsConfig

STEP = "step"
"""Our own column, which stands first in every table."""


def problems(options: CompletionsConfig, config: Config, plan: Plan) -> Iterator[Problem]:
    """A method without completions, columns that it does not have, a sample by a score that it does not have."""
    method = methods.find(plan.method)
    told = method.completions
    if told is None:
        hint = "train with dpo, kto, grpo or another method that compares, or remove completions from plugins:"
        yield Problem(f"method {method.name} compares no completions", path="method", hint=hint)
        return
    if options.sample in ("worst", "best") and told.score not in told.numbers:
        text = f"sample: {options.sample}: the rows of {method.name} have no score"
        yield Problem(text, path="plugins.completions.sample", hint="use sample: last, first or random")
    if not _others_bring(config):
        rewards = [reward.name or reward.function.rpartition(":")[2] for reward in config.rewards]
        wanted = [*method.columns, *config.data.keep]
        cells = [column.name for column in wanted if column.align != "token" and column.width is None]
        yield from unknown(options, method, (*rewards, *cells))


def unknown(options: CompletionsConfig, method: Method, more: Collection[str]) -> Iterator[Problem]:
    """The `columns` that are none of a method's rows, which have `more`: what scores answers, and what is kept of the data."""
    told = method.completions
    known = (*told.texts, *more, *told.numbers) if told else ()
    for name in options.columns or ():
        if name not in (STEP, *known):
            text = f"the rows of {method.name} have no {name!r}"
            yield Problem(text, path="plugins.completions.columns", hint=suggestion(name, known))


def _others_bring(config: Config) -> bool:
    """Whether another plugin may bring columns: reward functions, whose names are columns, or further columns of the data."""
    known = installed()
    others = [import_plugin(known[entry.name]) for entry in config.plugins if entry.name in known]
    return any(hasattr(cls, "provide_reward_functions") or cls.columns is not Plugin.columns for cls in others)

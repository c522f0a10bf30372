"""What keeping zeros needs of a run, as far as it is known before one, and what it will do. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from longline import LonglineError, Problem
from longline_sparsity import recipe

if TYPE_CHECKING:
    from longline import Config, Plan
    from longline_sparsity.config import SparsityConfig

REMOVE = "remove sparsity from plugins:"
WITHIN_BACKWARD = "not applied: DeepSpeed keeps the weights that it steps with to itself, where zeros cannot be held"


def problems(options: SparsityConfig, config: Config, plan: Plan) -> Iterator[Problem]:
    """A recipe that asks for more; an adapter, whose product has no zeros; quantised weights; DeepSpeed."""
    try:
        recipe.read(options)
    except LonglineError as error:
        yield Problem(f"not applied: {error.message}", path="plugins.sparsity.recipe", hint=error.hint)
    if config.adapter is not None:
        text = "not applied: an adapter's product has no zeros, so what it is merged into would lose all of them"
        yield Problem(text, path="adapter", hint=f"train the weights themselves, without adapter; or {REMOVE}")
    if config.model.quantization is not None:
        text = "not applied: quantised weights are not trained, and have no zeros of their own"
        yield Problem(text, path="model.quantization", hint=f"leave it out, or {REMOVE}")
    if plan.trainer_args.get("deepspeed"):
        yield Problem(WITHIN_BACKWARD, path="trainer.deepspeed", hint=f"trainer.fsdp: true shards too; or {REMOVE}")


def lines(options: SparsityConfig) -> Iterator[str]:
    """Which zeros are looked for, and how they are kept."""
    kept = recipe.read(options)
    if kept.targets is None:
        where = f"in every matrix but the embedding that has {options.least:.0%} of them"
    else:
        where = f"in {', '.join(kept.targets)}"
    wanted = "" if options.pattern == "auto" else f", which must be {options.pattern}"
    but = f", not in {', '.join(options.ignore)}" if options.ignore else ""
    if kept.end is not None:
        yield f"lets go of them at epoch {kept.end:g}, as the recipe says: what is saved after it has lost them"
    yield f"keeps the zeros that the model comes with {where}{but}{wanted}: masks their gradients, and the weights after each step"

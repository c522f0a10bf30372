"""What the filters need of a run, as far as it is known before one, and what they will do. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from longline import LonglineError, Problem

if TYPE_CHECKING:
    from longline import Plan
    from longline_grokfast.config import GrokfastConfig

REMOVE = "remove grokfast from plugins:"
WITHIN_BACKWARD = "not applied: DeepSpeed makes its step within the backward pass, before gradients can be filtered"
USES_UP = ("lomo", "adalomo")
"""Values of `trainer.optim` that change weights while gradients are computed; so do all that end on `_layerwise`."""


def problems(options: GrokfastConfig, plan: Plan) -> Iterator[Problem]:
    """What shows no gradients before a step, and a window that never gets full."""
    arguments = plan.trainer_args
    optim = str(arguments.get("optim", ""))
    if optim in USES_UP or optim.endswith("_layerwise"):
        text = f"not applied: {optim} uses gradients up while they are computed, so there are none to filter"
        yield Problem(text, path="trainer.optim", hint=f"trainer.optim: adamw_torch, or {REMOVE}")
    if arguments.get("deepspeed"):
        yield Problem(WITHIN_BACKWARD, path="trainer.deepspeed", hint=f"trainer.fsdp: true shards too; or {REMOVE}")
    steps = plan.steps or max(plan.max_steps, 0)
    if options.filter == "ma" and options.warmup and 0 < steps < options.window:
        text = f"not applied: the window of {options.window} gradients is never full in {steps} step{'s'[: steps > 1]}"
        hint = "a shorter window, warmup: false, or filter: ema"
        yield Problem(text, path="plugins.grokfast.window", hint=hint)


def lines(options: GrokfastConfig, plan: Plan) -> Iterator[str]:
    """What is added to which gradients, and where that stands towards clipping."""
    if options.filter == "ema":
        slow = f"the exponential average of a weight's gradients (alpha {options.alpha:g})"
    else:
        slow = f"the {options.reduce} of a weight's last {options.window} gradients"
    yield f"adds {options.times:g} times {slow} to each of them, {_place(options, plan)}"
    if options.filter == "ma":
        begin = f"nothing before step {options.window}, when the window is full" if options.warmup else "from the first step on"
        yield f"adds {begin}; keeps {options.window} gradients of every weight"
    if options.include or options.exclude:
        only = f"only weights with {_either(options.include)} in their names" if options.include else "all weights that train"
        yield f"filters {only}{f', not those with {_either(options.exclude)}' if options.exclude else ''}"


def _place(options: GrokfastConfig, plan: Plan) -> str:
    if plan.trainer_args.get("max_grad_norm") == 0:
        return "and nothing is clipped"
    return "before they are clipped" if options.place == "before_clipping" else "after they are clipped; what is added is not"


def _either(patterns: tuple[str, ...]) -> str:
    return " or ".join(patterns)


def kept_by(options: GrokfastConfig) -> dict[str, Any]:
    """What averages are over: they are of no use to a filter of which this is otherwise."""
    return {"filter": options.filter, "window": options.window if options.filter == "ma" else 0}


def refuse_other(options: GrokfastConfig, state: Mapping[str, Any]) -> None:
    """Raise LonglineError for the state of another filter, or of another window."""
    before, now = ({name: state[name] for name in ("filter", "window")}, kept_by(options))
    if before != now:
        was, is_now = (
            f"filter: {it['filter']}" + (f", window: {it['window']}" if it["window"] else "") for it in (before, now)
        )
        raise LonglineError(f"the checkpoint's averages are of {was}, and the config says {is_now}", hint=f"set {was} again")

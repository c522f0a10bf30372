"""What this loss needs of a run, as far as it is known before one. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from longline import Problem, methods

if TYPE_CHECKING:
    from longline import Plan
    from longline_cce.config import CceConfig

REMOVE = "remove cce from plugins:"
LIBRARY = "cut-cross-entropy"
HALVES = ("float16", "bfloat16")
"""The types that the library's kernels take."""


def problems(options: CceConfig, plan: Plan) -> Iterator[Problem]:
    """The method, the trainer's arguments, and what the options name for another machine or another type of numbers."""
    if not methods.find(plan.method).cross_entropy:
        text = f"not applied: it computes the cross entropy of sft, and this is {plan.method}"
        yield Problem(text, path="method", hint=f"{REMOVE} trl's trainers have losses without all logits themselves")
    if plan.trainer_args.get("label_smoothing_factor"):
        text = "not applied: cce and trainer.label_smoothing_factor exclude each other: smoothing needs all logits"
        yield Problem(text, path="trainer.label_smoothing_factor", hint=f"trainer.label_smoothing_factor: 0, or {REMOVE}")
    against = list(_against(options, plan))
    if against and options.impl != "auto":
        hint = "impl: auto takes what fits" if options.impl == "cce" else "impl: chunked"
        yield Problem(f"not applied: impl: {options.impl}: {'; '.join(against)}", path="plugins.cce.impl", hint=hint)
    elif against and options.asks("filter_eps"):
        yield Problem(
            unused("filter_eps", "cce", "chunked", against[0]), path="plugins.cce.filter_eps", hint="remove filter_eps"
        )


def _against(options: CceConfig, plan: Plan) -> Iterator[str]:
    """What speaks against the library, as reasons; the device's capability and the head show in the run."""
    if options.impl == "chunked":
        return
    if options.impl != "torch_compile" and plan.device != "cuda":
        yield needs_cuda(plan.device)
        return
    if find_spec("cut_cross_entropy") is None:
        yield f"{LIBRARY} is not installed"
    mixed = any(plan.trainer_args.get(name) for name in ("bf16", "fp16"))
    if options.impl != "torch_compile" and not mixed and plan.dtype not in HALVES:
        yield takes_halves(plan.dtype)


def needs_cuda(device: str) -> str:
    """Why the kernels do not run here."""
    return f"its kernels need CUDA, and this run is on {device}"


def takes_halves(dtype: str) -> str:
    """Why the kernels do not take hidden states of a type, such as float32."""
    return f"its kernels take float16 and bfloat16, and hidden states are {dtype}"


def unused(option: str, owner: str, impl: str, why: str) -> str:
    """The message for an option that `impl: auto` has no use for."""
    return f"not applied: {option} is of impl: {owner}, and impl: auto came to {impl}: {why}"

"""What stands out in a trace, each with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline_profiling.analysis import Analysis

IDLE_SHARE = 0.10
COPY_SHARE = 0.05
SMALL_SHARE = 0.10
TOP_SHARE = 0.25
WAIT_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is operator, gap, copy, small or wait; `what` was seen, `hint` says what to do."""

    kind: str
    what: str
    hint: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


OPERATOR_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"(?i)flash|sdpa|scaled_dot_product|attention|fmha",
        "attention grows with the square of the length: pack short samples (data.packing), lower data.max_length",
    ),
    (
        r"(?i)softmax|cross_entropy|nll_loss",
        "the loss over a large vocabulary: a fused loss kernel, or fewer tokens in a batch",
    ),
    (
        r"(?i)_foreach|addcdiv|addcmul|lerp_|adam|multi_tensor",
        "the optimizer: trainer.optim adamw_torch_fused, or train fewer weights with an adapter",
    ),
    (
        r"(?i)item$|_local_scalar_dense",
        "a number is read from a tensor, and the program waits for it: read it at log events only",
    ),
    (r"(?i)nccl|allreduce|all_reduce|allgather|c10d|gloo", "ranks wait for each other: compare them, accumulate more batches"),
    (r"(?i)copy_|_to_copy|clone|contiguous|memcpy", "see the copies"),
    (
        r"(?i)mm$|addmm|bmm|matmul|linear|gemm|mkldnn|cutlass|cublas|nvjet",
        "matrix products are the work itself: bfloat16, less padding (data.packing) and larger batches make them cheaper",
    ),
    (r"(?i)embedding|index", "looking up and adding to an embedding: freeze it, or train an adapter"),
)
OTHER_OPERATOR = (
    "look for its caller: steps.with_stack: true records the line of Python, ui.perfetto.dev shows what is around it"
)


def find(analysis: Analysis) -> list[Finding]:
    """Return what stands out, in the order of the report; at least one finding when there is any work."""
    return [*_top(analysis), *_gaps(analysis), *_copies(analysis), *_small(analysis), *_waits(analysis)]


def hint_of(operator: str) -> str:
    """Return what to do about an operator that takes much of the time."""
    return next((hint for pattern, hint in OPERATOR_HINTS if re.search(pattern, operator)), OTHER_OPERATOR)


def _top(analysis: Analysis) -> Iterator[Finding]:
    """The first operator in any case, and others that take a large part."""
    for place, operator in enumerate(analysis.work[:3]):
        share = analysis.share([operator])
        if place == 0 or share >= TOP_SHARE:
            what = f"{operator.name} takes {_percent(share)} of the time of all operators, in {operator.calls} calls"
            yield Finding("operator", what, hint_of(operator.name))


def _gaps(analysis: Analysis) -> Iterator[Finding]:
    idle = analysis.idle
    if not idle.window or idle.idle / idle.window < IDLE_SHARE:
        return
    where = next(iter(idle.inside), "")
    share, of = idle.idle / idle.window, "the GPU has nothing to do" if analysis.device == "gpu" else "no operator runs"
    what = f"{of} for {_percent(share)} of the time, most of it inside: {where}"
    if where.endswith(("._save_checkpoint", ".evaluate")):
        hint = "a checkpoint or an evaluation lies in the window: choose steps without one to see training itself"
    elif where.endswith(".data_wait"):
        hint = "the loader is too slow: raise trainer.dataloader_num_workers, prepare data ahead"
    elif analysis.device == "gpu":
        hint = "the CPU starts kernels too slowly: larger batches, trainer.torch_compile, fewer reads of numbers from tensors"
    else:
        hint = "Python between operators: larger batches make it matter less; time your own code there with @profiled"
    yield Finding("gap", what, hint)


COPY_HINTS = (
    ("Pageable", "host memory that is not pinned: trainer.dataloader_pin_memory, tensor.pin_memory()"),
    ("DtoH", "results are read back from the GPU: .item(), .cpu() and printing wait for it"),
    ("HtoD", "batches go to the GPU: move them with non_blocking=True, make tensors on the device"),
    ("aten::_to_copy", "types or devices are converted: load the model in the type that it computes in, convert once"),
    ("aten::contiguous", "a transposed tensor is laid out anew: keep one layout, use reshape where it is needed"),
    ("aten::clone", "tensors are duplicated: leave out clone() and contiguous() where nobody changes the copy"),
    ("aten::copy_", "mostly the inside of conversions and clones: steps.with_stack: true names the lines that ask for them"),
)


def _copies(analysis: Analysis) -> Iterator[Finding]:
    if not analysis.copies:
        return
    kinds = [[op for op in analysis.copies if op in group] for group in (analysis.kernels, analysis.operators)]
    for copies in filter(None, kinds):
        share, largest = analysis.share(copies), max(copies, key=lambda operator: operator.own)
        if share < COPY_SHARE:
            continue
        calls = sum(operator.calls for operator in copies)
        what = f"copies take {_percent(share)} of the time of all operators, in {calls} calls, most of it {largest.name}"
        yield Finding("copy", what, next((hint for word, hint in COPY_HINTS if word in largest.name), hint_of(largest.name)))


def _small(analysis: Analysis) -> Iterator[Finding]:
    share = analysis.share(analysis.small)
    if not analysis.small or share < SMALL_SHARE:
        return
    calls, first = sum(operator.calls for operator in analysis.small), max(analysis.small, key=lambda op: op.calls)
    what = f"{_percent(share)} of the time goes into {calls} calls of small operators, most often {first.name}"
    if analysis.device == "gpu":
        hint = "fuse them: trainer.torch_compile, trainer.optim adamw_torch_fused; larger batches"
    else:
        hint = (
            "each does little for what it costs to call: larger batches, trainer.optim adamw_torch_fused, trainer.torch_compile"
        )
    yield Finding("small", what, hint)


def _waits(analysis: Analysis) -> Iterator[Finding]:
    waited = sum(seconds for _, seconds in analysis.waits.values())
    if analysis.idle.window and waited / analysis.idle.window >= WAIT_SHARE:
        name = max(analysis.waits, key=lambda name: analysis.waits[name][1])
        what = f"the CPU waits for the GPU for {_percent(waited / analysis.idle.window)} of the time, most of it in {name}"
        hint = "no harm while the GPU is busy; where it is idle, read numbers from tensors less often"
        yield Finding("wait", what, hint)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"

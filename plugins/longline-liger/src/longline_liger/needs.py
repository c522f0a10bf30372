"""What a run with Liger's kernels needs, and what it cannot have beside them; all but the output head is known before a run."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from longline import LonglineError, Problem, methods
from longline_liger import interpreter, release, upstream
from longline_liger.config import GLU, LOSSES

if TYPE_CHECKING:
    from longline import Config, Plan
    from longline_liger.config import Kernels

REMOVE = "remove liger from plugins:"


# --- before a run: nothing heavy is imported --------------------------------------------------------------------------------------


def problems(options: Kernels, config: Config, plan: Plan) -> Iterator[Problem]:
    """What of a config these kernels cannot do, or not on this machine."""
    yield from _kernels(options, plan)
    yield from _beside(options, plan)
    yield from _library()
    yield from _halves(plan) if interpreter.wanted() else _device(config, plan)


def _kernels(options: Kernels, plan: Plan) -> Iterator[Problem]:
    """A kernel for a loss that is not the model's own, and options that leave no kernel."""
    own_loss = methods.find(plan.method).cross_entropy
    asked = [name for name in options.wanted() if name in LOSSES]
    if asked and not own_loss:
        yield Problem(
            f"{asked[0]} cannot be applied: {plan.method} takes its loss in trl, which never asks the model for one",
            path=f"plugins.liger.{asked[0]}",
            hint=f"remove {asked[0]} from plugins.liger; trl saves the logits of dpo, kto, grpo and rloo by itself",
        )
    without = {*options.unwanted(), *(() if own_loss else LOSSES), "use_token_scaling"}
    without |= set(GLU) if "glu_activation" in without else set()
    if not options.wanted() and set(release.offered()) <= without:
        yield Problem("not applied: the options leave no kernel to apply", hint=f"name those that you want, or {REMOVE}")


def _beside(options: Kernels, plan: Plan) -> Iterator[Problem]:
    """What the trainer is told and these kernels would undo, or cannot be shown to bear."""
    if plan.trainer_args.get("torch_compile"):
        yield Problem(
            "Liger's kernels beside trainer.torch_compile are not shown to be right: the tests have no GPU to compile for",
            path="trainer.torch_compile",
            hint=f"remove trainer.torch_compile, or {REMOVE}",
        )
    own_loss = methods.find(plan.method).cross_entropy
    if own_loss and options.may_replace_loss and plan.trainer_args.get("label_smoothing_factor"):
        yield Problem(
            "trainer.label_smoothing_factor takes the loss from the logits, so that no kernel of Liger would compute it",
            path="trainer.label_smoothing_factor",
            hint="remove label_smoothing_factor, or name kernels in plugins.liger that leave the loss alone: {rms_norm: true}",
        )


def _library() -> Iterator[Problem]:
    """Liger and Triton must be there; whether they can be imported shows when a run begins."""
    missing = [name for name, module in ((release.DISTRIBUTION, "liger_kernel"), ("triton", "triton")) if not find_spec(module)]
    if missing:
        named = " and ".join(missing)
        yield Problem(f"Liger's kernels need {named}, not installed here", hint=f"pip install {' '.join(missing)}, or {REMOVE}")


def _device(config: Config, plan: Plan) -> Iterator[Problem]:
    """A GPU that CUDA reaches. On a machine without one `use_cpu` is the plan's own answer, so the config is asked."""
    has_cuda = plan.device == "cuda"
    if config.trainer.get("use_cpu") or (has_cuda and plan.trainer_args.get("use_cpu")):
        text = "Liger's kernels need CUDA, and trainer.use_cpu keeps the model off it"
        yield Problem(text, path="trainer.use_cpu", hint=f"remove use_cpu, or {REMOVE}")
    elif not has_cuda:
        text = "Liger's kernels need CUDA, and there is none on this machine"
        yield Problem(text, hint=f"train on a machine with an NVIDIA GPU, or {REMOVE}")


def _halves(plan: Plan) -> Iterator[Problem]:
    """With numbers of half the width Triton's interpreter computes nonsense."""
    half = next((name for name in ("bf16", "fp16") if plan.trainer_args.get(name)), None)
    if half or plan.dtype != "float32":
        what = f"trainer.{half}" if half else f"model.dtype: {plan.dtype}"
        yield Problem(
            f"Triton's interpreter is right only in float32, and this run has {what}",
            path=f"trainer.{half}" if half else "model.dtype",
            hint="set model.dtype: float32",
        )


# --- in a run ---------------------------------------------------------------------------------------------------------------------


def require_library() -> None:
    """Raise LonglineError where liger-kernel cannot be imported, or was before the interpreter was asked for."""
    try:
        upstream.functions()
    except Exception as error:
        raise LonglineError(
            f"liger-kernel {release.installed_version() or ''} cannot be imported: {type(error).__name__}: {error}",
            hint=f"pip install --force-reinstall {release.DISTRIBUTION} triton, or {REMOVE}",
        ) from error
    if interpreter.wanted() and not upstream.made_for_the_interpreter():
        raise LonglineError(
            "TRITON_INTERPRET=1 was set after Triton's kernels were made", hint="set it in the environment that starts Python"
        )


def refuse_head(model: Any) -> None:
    """Raise LonglineError when the fused loss would compute something else than the model's output head does."""
    from torch import nn

    head = model.get_output_embeddings()
    kind, library = type(head).__name__, type(head).__module__.partition(".")[0]
    if kind == "ModulesToSaveWrapper":
        return  # its weight is that of the copy that is trained
    why = None
    if type(head) is not nn.Linear:
        why = f"the output head is {library}'s {kind}, and the kernel takes its weight alone"
    elif head.bias is not None:
        why = "the output head has a bias, which the kernel leaves out"
    if why:
        raise LonglineError(
            f"fused_linear_cross_entropy cannot be applied: {why}",
            hint="use cross_entropy: true instead, or leave the output head out of the adapter and the quantisation",
        )

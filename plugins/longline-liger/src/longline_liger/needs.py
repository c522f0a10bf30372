"""What a run with Liger's kernels needs, and what it cannot have beside them; all of it is known before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longline import LonglineError
from longline_liger import interpreter, release, upstream
from longline_liger.config import LOSSES

if TYPE_CHECKING:
    from longline.methods.base import Method
    from longline_liger.config import Kernels

REMOVE = "remove liger from plugins:"


def require_machine(use_cpu: bool) -> None:
    """Raise LonglineError where no kernel can run: without CUDA, or without a liger-kernel that can be imported."""
    import torch

    if not interpreter.wanted():
        if not torch.cuda.is_available():
            raise LonglineError(
                "Liger's kernels need CUDA, and torch finds none on this machine",
                hint=f"train on a machine with an NVIDIA GPU, or {REMOVE}",
            )
        if use_cpu:
            raise LonglineError("Liger's kernels need CUDA, and trainer.use_cpu keeps the model off it", hint="remove use_cpu")
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


def require_float32(dtype: str, trainer_args: Mapping[str, Any]) -> None:
    """Raise LonglineError when the interpreter would be given numbers of half the width, with which it computes nonsense."""
    half = [name for name in ("bf16", "fp16") if trainer_args.get(name)]
    if dtype != "float32" or half:
        what = f"trainer.{half[0]}" if half else f"model.dtype: {dtype}"
        raise LonglineError(
            f"Triton's interpreter is right only in float32, and this run has {what}", hint="set model.dtype: float32"
        )


def refuse_loss_elsewhere(options: Kernels, method: Method) -> None:
    """Raise LonglineError when a kernel for the loss is asked for and the method's loss is trl's."""
    asked = [name for name in options.wanted() if name in LOSSES]
    if asked and not method.cross_entropy:
        raise LonglineError(
            f"{asked[0]} cannot be applied: {method.name} takes its loss in trl, which never asks the model for one",
            hint=f"remove {asked[0]} from plugins.liger; trl saves the logits of dpo, kto, grpo and rloo by itself",
        )


def refuse_beside(options: Kernels, trainer_args: Mapping[str, Any], method: Method) -> None:
    """Raise LonglineError for what the trainer is told and these kernels would undo, or cannot be shown to bear."""
    if trainer_args.get("torch_compile"):
        raise LonglineError(
            "Liger's kernels beside trainer.torch_compile are not shown to be right: the tests have no GPU to compile for",
            hint=f"remove trainer.torch_compile, or {REMOVE}",
        )
    if method.cross_entropy and options.may_replace_loss and trainer_args.get("label_smoothing_factor"):
        raise LonglineError(
            "trainer.label_smoothing_factor takes the loss from the logits, so that no kernel of Liger would compute it",
            hint="remove label_smoothing_factor, or name kernels in plugins.liger that leave the loss alone: {rms_norm: true}",
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

"""trl's fused head on a CPU: score the tokens that count, and no others.

On CUDA trl leaves out tokens without a label before it multiplies with the vocabulary. On other devices it scores all of them,
prompts and padding too, and throws most away; that suits compilers that want constant shapes, which a CPU has no need of.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from longline import upstream
from longline.events import IGNORED
from longline.loss.head import Targets, bare

if TYPE_CHECKING:
    import torch


def compact_fused_head(model: Any) -> None:
    """Let a model that trl gave a fused head (`add_fused_lm_head`) score labelled tokens alone when it is on the CPU.

    What `model(..., labels=labels, fused_lm_head=True)` returns stays the same: its fields [rows, length - 1] have zeros
    where there is no label. A model without a fused head is left as it is.
    """
    inner = bare(model)
    if "forward" not in vars(inner):
        return
    scored, kept = inner.forward, _KeptStates(inner.base_model)

    @functools.wraps(type(inner).forward)
    def forward(self: Any, *args: Any, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if not kwargs.get("fused_lm_head") or labels is None or labels.device.type != "cpu":
            return scored(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        targets, mask = Targets.of(labels).rounded(inner.get_output_embeddings().weight), labels[:, 1:] != IGNORED
        kept.targets = targets
        try:
            # trl itself leaves out tokens by this argument on CUDA.
            output = scored(*args, shift_labels=targets.tokens[None], **kwargs)
        finally:
            kept.targets = None
        return _spread(output, mask)

    # trl puts its fused forward on the instance as well, so ours goes around it and no class is changed.
    inner.forward = types.MethodType(forward, inner)


class _KeptStates:
    """A hook on the backbone: while there are targets, its last hidden states are those of the targets, [1, N, size]."""

    def __init__(self, backbone: Any) -> None:
        self.targets: Targets | None = None
        backbone.register_forward_hook(self)

    def __call__(self, _: Any, args: Any, output: Any) -> Any:
        if self.targets is not None:
            states = output.last_hidden_state
            output.last_hidden_state = states.reshape(-1, states.shape[-1])[self.targets.positions][None]
        return output


def _spread(output: Any, mask: torch.Tensor) -> Any:
    """Put the fields [1, N] of the scored tokens back where `mask` [rows, length - 1] is set."""
    for name in upstream.trl.PER_TOKEN:
        values = getattr(output, name)
        if values is not None:
            # also without any label, the zeros stay connected with the model
            setattr(output, name, values.new_zeros(mask.shape).masked_scatter(mask, values[0]))
    output.label_mask = mask
    return output

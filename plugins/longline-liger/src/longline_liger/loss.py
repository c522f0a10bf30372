"""The loss of a model whose forward is Liger's: output head and cross entropy in one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from longline.loss.head import bare

if TYPE_CHECKING:
    from longline.hookspecs import LossFunction


def fused_loss(model: Any, *, token_scaling: bool) -> LossFunction:
    """An answer to provide_loss. An evaluation of the loss alone makes no logits either, where Liger's forward can do without.

    `token_scaling` weighs each trained token's loss with its predicted probability; evaluations are left as they are.
    """
    can_skip = "skip_logits" in inspect.signature(bare(model).forward).parameters

    def loss(trainer: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        more: dict[str, Any] = {}
        if token_scaling and model.training:
            more["use_token_scaling"] = True
        if can_skip and not model.training and not trainer.wants_logits:
            more["skip_logits"] = True
        return trainer.method_loss(model, {**inputs, **more}, num_items_in_batch)

    return loss

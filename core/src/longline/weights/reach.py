"""Which weights have a part in what a model makes of a text: towers for pictures have none, nor has an expert that nobody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from longline.weights.likeness import UNABLE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unreached(model: PreTrainedModel, tokens: torch.Tensor) -> list[str]:
    """The names of the weights to be trained that the logits of tokens [rows, length] do not depend on.

    The graph of one forward pass is followed; nothing is computed backwards. There are none where a model cannot be asked.
    """
    ids = tokens.to(next(model.parameters()).device)
    try:
        with torch.enable_grad():
            made: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    except UNABLE:
        return []
    reached, seen, left = set(), set(), [made.logits.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            reached.add(id(getattr(node, "variable", None)))
            left += [following for following, _ in node.next_functions]
    return [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in reached]

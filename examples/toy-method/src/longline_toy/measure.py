"""What `longline evaluate` measures: the loss, and how often the order is right."""

from __future__ import annotations

from typing import Any

import torch

from longline.data.collate import Collator
from longline_toy.kind import RANKING
from longline_toy.loss import answer_scores, pairs_right, plackett_luce


def measure_ranking(model: Any, tokenizer: Any, rows: Any, batch_size: int = 8) -> dict[str, float]:
    """Return means over all rows: the loss with a beta of 1, the share of pairs in the right order, whether the best is first."""
    collate = Collator(pad_token_id=int(tokenizer.pad_token_id), kind=RANKING)
    found: list[torch.Tensor] = []
    for start in range(0, len(rows), batch_size):
        batch = collate([rows[index] for index in range(start, min(start + batch_size, len(rows)))])
        counts = batch["answer_counts"].tolist()
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}
        with torch.inference_mode():
            found += answer_scores(model, inputs)[0].cpu().split(counts)
    return {
        "eval_ranking_loss": float(torch.stack([plackett_luce(own) for own in found]).mean()),
        "eval_pairs_right": float(torch.stack([pairs_right(own) for own in found]).mean()),
        "eval_best_first": sum(int(own.argmax()) == 0 for own in found) / len(found),
    }

"""The rows of a vocabulary that grew: how they start, and that an adapter trains all of them, in embedding and head."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from longline import upstream

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def grow(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> range:
    """Give embedding and head a row for every token, and return the new ones; never shrinks what is padded to a round size.

    A new row is the mean of the old ones, the same in every process.
    """
    whole: Any = model
    # A model of scores finds the end of a text by it, and the base of a saved adapter may have another one, or none.
    whole.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    old = whole.get_input_embeddings().num_embeddings
    rows = range(old, max(old, len(tokenizer)))
    if not rows:
        return rows
    if upstream.transformers.has_partitioned_weights():
        whole.resize_token_embeddings(len(tokenizer))
        return rows
    # transformers would draw new rows around the mean, with a covariance that takes the embedding twice in float32, and write
    # three notes about it; a saved adapter needs the same rows each time that its base is loaded.
    whole.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for matrix in (whole.get_input_embeddings(), whole.get_output_embeddings()):
        for values in (getattr(matrix, "weight", None), getattr(matrix, "bias", None)):
            if values is not None and len(values) == len(tokenizer):
                values.data[old:] = values.data[:old].mean(0, dtype=torch.float32).to(values.dtype)
    return rows


def train_rows(config: PeftConfig, model: PreTrainedModel, rows: Iterable[int]) -> None:
    """Let an adapter train these rows of embedding and head, beside what it trains of them already."""
    wanted: Any = config
    rows = sorted({*rows})
    whole: Any = model
    matrices = [matrix for matrix in (whole.get_input_embeddings(), whole.get_output_embeddings()) if matrix is not None]
    names = [name for matrix in matrices for name, module in model.named_modules() if module is matrix]
    trained = [*(wanted.modules_to_save or ()), *_plain(wanted.target_modules, names)]
    left = [name for name in names if not _named(name, trained)]
    if not rows or not left:
        return
    tied = len(matrices) > 1 and matrices[0].weight is matrices[1].weight
    biased = getattr(matrices[-1], "bias", None) is not None
    # peft has no bias in a head of which it trains rows, and can't train rows of one of two tied matrices: those are trained whole.
    if len(names) > 1 and (biased or (tied and len(left) == 1)):
        wanted.modules_to_save = [*(wanted.modules_to_save or ()), *left]
        return
    own = wanted.trainable_token_indices or {}
    asked = own if isinstance(own, dict) else {names[0]: own}
    found = {name: sorted({*rows, *_asked(name, asked)}) for name in (left[:1] if tied else left)}
    wanted.trainable_token_indices = {**{name: ids for name, ids in asked.items() if not _named(name, found)}, **found}


def _asked(name: str, asked: dict[str, list[int]]) -> list[int]:
    return [row for key, rows in asked.items() if _named(name, [key]) or _named(key, [name]) for row in rows]


def _named(name: str, ends: Iterable[str]) -> bool:
    """Whether the name of a module ends with one of these, as peft reads them."""
    return any(f".{name}".endswith(f".{end}") for end in ends)


def _plain(targets: str | Sequence[str] | None, names: Sequence[str]) -> Sequence[str]:
    """Those of the names that `target_modules` means; `all-linear` leaves the head out."""
    if isinstance(targets, str):
        return [name for name in names if targets != "all-linear" and re.fullmatch(targets, name)]
    return [*(targets or ())]

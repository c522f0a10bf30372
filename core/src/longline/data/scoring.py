"""Where a model of scores looks: at the last token that is not padding, which a row must not end with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from longline.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_LIKELY = ("pad", "reserved|unused|extra|dummy|placeholder", "unk|mask", "")
"""Names of special tokens that text does not end with, the likeliest first; the last is any."""
_ENDS = re.compile(r"end|eot|eos|eom|eod|/s>|stop|return", re.IGNORECASE)


def pad_apart(tokenizer: PreTrainedTokenizerBase, splits: list[Dataset], *, named: str | None) -> tuple[str, int] | None:
    """Pad with another token if texts end with the one that pads; returns that, and how many rows do.

    transformers finds the token that is scored by its id, not by the attention mask: it would take the one before the end. `named`
    is the token that the config says pads.

    Raises:
        DataError: the config names it, or no special token is left that could pad.
    """
    pad, ends = int(tokenizer.pad_token_id), _ends(splits)
    rows = int((ends == pad).sum())
    if not rows:
        return None
    text = f"{rows} texts end with {tokenizer.pad_token}, which also pads: the score would be read at the token before"
    hint = 'model.tokenizer: {add_tokens: ["<|pad|>"], pad_token: "<|pad|>"} pads with a token of its own'
    token = None if named else _other(tokenizer, {pad, *ends.tolist()})
    if token is None:
        raise DataError(text, hint=hint)
    tokenizer.pad_token = token
    return token, rows


def _ends(splits: list[Dataset]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The last token of each text; a row of several, as a pair, has as many."""
    found = [np.zeros(0, dtype=np.int64)]
    for split in splits:
        columns = [name for name in ("input_ids", "seq_lengths") if name in split.column_names]
        for table in split.select_columns(columns).with_format("arrow").iter(10_000):
            ids = table.column("input_ids").combine_chunks()
            lengths = ids.value_lengths() if len(columns) == 1 else table.column("seq_lengths").combine_chunks().flatten()
            edges = np.cumsum(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
            found.append(ids.flatten().to_numpy(zero_copy_only=False).astype(np.int64)[edges - 1])
    return np.concatenate(found)


def _other(tokenizer: PreTrainedTokenizerBase, taken: set[int]) -> str | None:
    special = {int(place): token.content for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    free = [(place, token) for place, token in sorted(special.items()) if place not in taken and not _ENDS.search(token)]
    for name in _LIKELY:
        for _, token in free:
            if re.search(name, token, re.IGNORECASE):
                return token
    return None

"""Texts with learnt spans into token ids and labels, many at once, through the fast tokenizer's own batch call."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers.processors import TemplateProcessing

from longline.data.positions import Finder
from longline.data.values import Tokens
from longline.errors import DataError
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from longline.data.positions import Found
    from longline.data.values import Piece


class Encoder:
    """Encodes with one tokenizer. Raises DataError for a tokenizer without a fast backend, which knows no positions."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"{type(tokenizer).__name__} can't say which characters a token stands for, so nothing can be masked",
                hint="use the fast version of the tokenizer (a tokenizer.json)",
            )
        self.backend: Any = tokenizer.backend_tokenizer
        self.eos: int | None = tokenizer.eos_token_id
        # Asked of the tokenizer itself: what post-processors put in front of a text has no common place to read it from.
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a", add_special_tokens=True)["input_ids"]
        starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
        self.pad: int | None = tokenizer.pad_token_id
        self.vocabulary = len(tokenizer)
        self.special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        self.special_texts = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.prefix: list[int] = list(whole[: starts[0]]) if starts else []
        self._finder = Finder(self.backend)

    @cached_property
    def ids(self) -> int:
        """One more than the highest token id: a vocabulary may have gaps."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Let the tokenizer tell true positions; `encode` is called inside.

        The post-processor of byte-level tokenizers cuts whitespace off them, and so a header's last line break would seem to
        start where the answer does. It is put back afterwards; truncation and padding are set by every call of transformers.
        """
        backend = self.backend
        processor = backend.post_processor
        backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        backend.no_truncation()
        backend.no_padding()
        try:
            yield
        finally:
            backend.post_processor = processor

    def encode(
        self, pieces: Sequence[Piece], *, raw: bool, add_eos: bool, limit: int | None, across: bool = False, first: bool = False
    ) -> list[Tokens]:
        """Tokenise `pieces`. `raw` texts get the tokenizer's own first tokens, and with `add_eos` its last one.

        `limit` cuts longer samples to so many tokens. `across`: a token that starts before a learnt span and ends in it is
        learnt, since answers to one prompt may differ in nothing else. `first`: so is the first token of a text, for one that
        is put behind another.
        """
        prefix = self.prefix if raw else []
        suffix = [self.eos] if raw and add_eos and self.eos is not None else []
        found = self._finder.find(pieces)
        return [
            _labelled(piece, place, prefix, suffix, limit, across, first) for piece, place in zip(pieces, found, strict=True)
        ]


def _labelled(
    piece: Piece, found: Found, prefix: list[int], suffix: list[int], limit: int | None, across: bool, first_too: bool
) -> Tokens:
    """Labels from spans: the ids inside them, IGNORED elsewhere and on the first token, which nothing predicts."""
    ids = found.ids
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    for (first, last), straddles in zip(found.spans, found.straddles, strict=True):
        # Else a token belongs to the side on which it starts: what starts in a prompt is masked, and such rows are counted.
        first -= straddles and across
        labels[first:last] = ids[first:last]
    ends = [end + len(prefix) for end in found.terminators]
    # A text that ends with the token by itself gets no second one.
    if suffix and (not len(ids) or ids[-1] != suffix[0]):
        to_end = bool(piece.spans) and piece.spans[-1][1] == len(piece.text)
        ids = np.append(ids, np.int32(suffix[0]))
        labels = np.append(labels, np.int32(suffix[0] if to_end else IGNORED))
    if prefix and ids[: len(prefix)].tolist() != prefix:
        ids = np.concatenate([np.array(prefix, dtype=np.int32), ids])
        labels = np.concatenate([np.full(len(prefix), IGNORED, dtype=np.int32), labels])
    whole = len(ids)
    truncated = limit is not None and whole > limit
    if truncated:
        ids, labels = ids[:limit], labels[:limit]
    # Nothing comes before the first token that would predict it; in a packed row the end of another sample would.
    if len(labels) and not first_too:
        labels[0] = IGNORED
    learnt = [int(ids[end]) for end in ends if end < len(labels) and labels[end] != IGNORED]
    return Tokens(ids, labels, len(learnt), truncated, any(found.straddles), whole, ends=learnt)

"""Which token starts at a character, for many texts at once.

The library can say it, but keeping account of every character costs it half as much again as tokenising. The tokens of a
byte-level tokenizer are the very bytes of the text, so there it is enough to add up their sizes. Where the sum is not the size
of the text, and for all other tokenizers, the library is asked.
"""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import models, normalizers

from longline.data.long_texts import tokenised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from longline.data.values import Ints, Piece

COMPARED = 64
"""So many texts are tokenised in both ways, and the quick one is given up if they differ."""

BATCH_CHARACTERS = 1 << 20
"""About how much text is tokenised in one call."""


@dataclass(slots=True)
class Found:
    """The ids of a text, its spans and terminators as numbers of tokens, and for each span whether a token before it ends in it."""

    ids: Ints
    spans: list[tuple[int, int]]
    terminators: list[int]
    straddles: list[bool]

    def agrees(self, other: Found) -> bool:
        """Whether both say the same."""
        mine, others = ((found.spans, found.terminators, found.straddles) for found in (self, other))
        return mine == others and np.array_equal(self.ids, other.ids)


class Finder:
    """Tokenises with one tokenizer of the tokenizers library, whose post-processor must leave offsets as they are."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._sizes: Ints | None = None
        self._composed = isinstance(backend.normalizer, normalizers.NFC)
        self._to_compare = COMPARED if _is_byte_level(backend) else 0
        self._quick = bool(self._to_compare)
        self._blind: Any = None

    def find(self, pieces: Sequence[Piece]) -> list[Found]:
        """Tokenise the texts of `pieces`, special tokens as they stand in them, and find their spans."""
        found = [place for batch in _batches(pieces) for place in (self._alone(batch) or self._find(batch))]
        return [self._plainly(piece) if piece.plain else place for piece, place in zip(pieces, found, strict=True)]

    def _plainly(self, piece: Piece) -> Found:
        """A text with the tokens of its special ones in their place."""
        encoding = self._backend.encode(piece.text, add_special_tokens=False)
        found = _by_offsets(piece, encoding)
        ids, starts, longer = found.ids.tolist(), [], []
        for start, end in reversed(piece.plain):
            token = encoding.char_to_token(start)
            first, last = encoding.token_to_chars(token) if token is not None else (end, end)
            if not first <= start < end <= last:
                continue  # it is no token here, as one that has to be a word of its own
            own = self._as_text(piece.text[first:last])
            ids[token : token + 1] = own
            starts.append(token)
            longer.append(len(own) - 1)

        def place(number: int) -> int:
            return number + sum(more for start, more in zip(starts, longer, strict=True) if start < number)

        spans = [(place(first), place(last)) for first, last in found.spans]
        return Found(np.array(ids, dtype=np.int32), spans, list(map(place, found.terminators)), found.straddles)

    def _as_text(self, word: str) -> list[int]:
        """The tokens of a special token's text, as they are inside of a text."""
        if self._blind is None:
            self._blind = type(self._backend).from_str(self._backend.to_str())
            self._blind.encode_special_tokens = True
        # Behind something that does not join with it: at the start of a text some tokenizers put a space.
        for before in ("\n", "a", "1", "."):
            encoding = self._blind.encode(before + word, add_special_tokens=False)
            first = encoding.char_to_token(1)
            if first and encoding.token_to_chars(first)[0] == 1:
                return list(encoding.ids[first:])
        return list(self._blind.encode(word, add_special_tokens=False).ids)

    def _alone(self, pieces: Sequence[Piece]) -> list[Found] | None:
        """A single text that is too long to be tokenised in one call; None for any other."""
        piece = pieces[0]
        if len(pieces) > 1 or len(piece.text) < BATCH_CHARACTERS:
            return None
        wanted = [place for span in piece.spans for place in span] + piece.terminators
        made = tokenised(piece.text, wanted, lambda texts: self._backend.encode_batch(texts, add_special_tokens=False))
        if made is None:
            return None
        ids, places = made
        spans = [(places[start][0], places[end][0]) for start, end in piece.spans]
        return [
            Found(ids, spans, [places[end][0] for end in piece.terminators], [places[start][1] for start, _ in piece.spans])
        ]

    def _find(self, pieces: Sequence[Piece]) -> list[Found]:
        if not self._quick:
            return self._slowly(pieces)
        found = self._by_size(pieces)
        missing = [number for number, place in enumerate(found) if place is None]
        for number, place in zip(missing, self._slowly([pieces[number] for number in missing]), strict=True):
            found[number] = place
        result = [place for place in found if place is not None]
        return result if self._compared(pieces, result) else self._slowly(pieces)

    def _compared(self, pieces: Sequence[Piece], found: list[Found]) -> bool:
        """Whether the first texts of all come out the same in both ways."""
        count = min(self._to_compare, len(pieces))
        self._to_compare -= count
        self._quick = all(mine.agrees(other) for mine, other in zip(found, self._slowly(pieces[:count]), strict=False))
        return self._quick

    def _slowly(self, pieces: Sequence[Piece]) -> list[Found]:
        """Ask the library where tokens are."""
        encodings = self._backend.encode_batch([piece.text for piece in pieces], add_special_tokens=False) if pieces else []
        return [_by_offsets(piece, encoding) for piece, encoding in zip(pieces, encodings, strict=True)]

    def _by_size(self, pieces: Sequence[Piece]) -> list[Found | None]:
        """Add up sizes; None for a text that is not what its tokens add up to."""
        if self._sizes is None:
            self._sizes = _sizes(self._backend)
        encodings = self._backend.encode_batch_fast([piece.text for piece in pieces], add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        ids = np.fromiter(itertools.chain.from_iterable(lists), dtype=np.int32, count=sum(map(len, lists)))
        starts = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(self._sizes[ids], out=starts[1:])
        firsts = np.cumsum([0, *map(len, lists)])
        bases = starts[firsts]
        sizes = np.diff(bases).tolist()
        places = [self._bytes(piece, size) for piece, size in zip(pieces, sizes, strict=True)]
        counts = [0 if place is None else len(place) for place in places]
        wanted = np.fromiter(
            itertools.chain.from_iterable(place for place in places if place), dtype=np.int64, count=sum(counts)
        )
        wanted += np.repeat(bases[:-1], counts)
        tokens = np.searchsorted(starts, wanted)
        inside = (starts[tokens] > wanted).tolist()
        numbers = (tokens - np.repeat(firsts[:-1], counts)).tolist()
        found: list[Found | None] = []
        at, edges = 0, firsts.tolist()
        for number, (piece, place) in enumerate(zip(pieces, places, strict=True)):
            if place is None:
                found.append(None)
                continue
            middle, end = at + 2 * len(piece.spans), at + len(place)
            spans = list(zip(numbers[at:middle:2], numbers[at + 1 : middle : 2], strict=True))
            own = ids[edges[number] : edges[number + 1]]
            found.append(Found(own, spans, numbers[middle:end], inside[at:middle:2]))
            at = end
        return found

    def _bytes(self, piece: Piece, size: int) -> list[int] | None:
        """The spans and terminators of a text as numbers of bytes, end to end; None when the text is not of this size."""
        text = piece.text
        places = [place for span in piece.spans for place in span] + piece.terminators
        if text.isascii():
            return places if len(text) == size else None
        if self._composed and not unicodedata.is_normalized("NFC", text):
            return None
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
        edges = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])
        return edges[places].tolist() if edges[-1] == size else None


def _batches(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Parts of about BATCH_CHARACTERS: an encoding takes a hundred bytes for each token."""
    start = size = 0
    for end, piece in enumerate(pieces, start=1):
        if len(piece.text) >= BATCH_CHARACTERS and start < end - 1:
            yield pieces[start : end - 1]  # a long text is one alone
            start, size = end - 1, 0
        size += len(piece.text)
        if size >= BATCH_CHARACTERS or end == len(pieces):
            yield pieces[start:end]
            start, size = end, 0


def _is_byte_level(backend: Any) -> bool:
    """Whether tokens may be taken for the bytes of the text, until a text shows that they are not."""
    known = backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)
    split = backend.pre_tokenizer.__getstate__() if backend.pre_tokenizer is not None else b""
    return known and isinstance(backend.model, models.BPE) and b'"ByteLevel"' in split


def _sizes(backend: Any) -> Ints:
    """The bytes of each token: a byte-level vocabulary has one character for each."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    sizes = np.zeros(1 + max(*vocabulary.values(), *added, 0), dtype=np.int32)
    sizes[np.fromiter(vocabulary.values(), dtype=np.int64)] = np.fromiter(map(len, vocabulary), dtype=np.int32)
    for number, token in added.items():
        sizes[number] = len(token.content.encode())
    return sizes


def _by_offsets(piece: Piece, encoding: Any) -> Found:
    """What the library's own account of characters says."""
    length = len(piece.text)
    spans = [(_token_at(encoding, start, length), _token_at(encoding, end, length)) for start, end in piece.spans]
    straddles = [
        first > 0 and encoding.token_to_chars(first - 1)[1] > start
        for (first, _), (start, _) in zip(spans, piece.spans, strict=True)
    ]
    terminators = [_token_at(encoding, end, length) for end in piece.terminators]
    return Found(np.array(encoding.ids, dtype=np.int32), spans, terminators, straddles)


def _token_at(encoding: Any, position: int, length: int) -> int:
    """The first token that starts at character `position` or behind it."""
    if position >= length:
        return len(encoding)
    token = encoding.char_to_token(position)
    if token is None:
        token = 0
    while token < len(encoding) and encoding.token_to_chars(token)[0] < position:
        token += 1
    return int(token)

"""A teacher's answers in the data, put beside the tokens that they are about, and refused where those are others."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Features, Sequence, Value

from longline.errors import DataError
from longline.events import IGNORED
from longline_distill.layouts import Answer, LayoutError, Named, Place, read

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from longline import Run
    from longline_distill.config import Layout

IDS, LOGS, FAULTS = "distill_ids", "distill_logs", "distill_faults"
"""The columns that are added: of each learnt token its k likeliest ids (-1: fewer) and their log probabilities, of each sample what
is wrong with it or nothing."""

UNTOLD = 2
"""How many tokens at the end of an answer a teacher may say nothing of: the one that ends a turn, and a line break behind it."""


class MisalignedError(ValueError):
    """The tokens that a teacher answered are not those of the sample."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by their bytes, for what names tokens by their text."""

    tokenizer: Any

    @cached_property
    def bytes_of(self) -> dict[int, bytes]:
        """The bytes of every token."""
        words: dict[str, int] = self.tokenizer.get_vocab()
        added = {number: token.content.encode() for number, token in self.tokenizer.added_tokens_decoder.items()}
        as_bytes = _byte_level() if "Ġ" in words or "Ċ" in words else None
        return {number: _bytes(word, as_bytes) for word, number in words.items()} | added

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The first token of every text."""
        return {text: number for number, text in sorted(self.bytes_of.items(), reverse=True)}

    def id_of(self, named: Named) -> int | None:
        """Which token it is; None for a text that is none of ours."""
        return named if isinstance(named, int) else self.ids.get(named)

    def is_at(self, place: Place, token: int) -> bool:
        """Whether the token may stand there."""
        if token in place.stands:
            return True
        return any(isinstance(named, bytes) for named in place.stands) and self.bytes_of.get(token) in place.stands


def _byte_level() -> dict[str, int]:
    """The letters that byte-level BPE writes for bytes (GPT-2; Radford et al. 2019)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + number): byte for number, byte in enumerate(moved)}


def _bytes(word: str, as_bytes: dict[str, int] | None) -> bytes:
    if as_bytes is not None and all(letter in as_bytes for letter in word):
        return bytes(as_bytes[letter] for letter in word)
    found = re.fullmatch(r"<0x([0-9A-F]{2})>", word)
    return bytes([int(found[1], 16)]) if found else word.replace("▁", " ").encode()


def places(answer: Answer, ids: list[int], learnt: list[int], vocabulary: Vocabulary) -> list[Place | None]:
    """What is said of each learnt token, `learnt` their positions in `ids`. Raises MisalignedError."""
    said = answer.places
    if answer.whole:
        found = [said[at] if at < len(said) else None for at in learnt]
        for at, place in zip(learnt, found, strict=True):
            if place is not None and not vocabulary.is_at(place, ids[at]):
                raise MisalignedError(f"token {at} is {ids[at]}, and the teacher answered about {_shown(place)}")
    else:
        start = next((start for start in range(len(said)) if _fits(said[start:], ids, learnt, vocabulary)), None)
        if start is None:
            at = next(
                (at for at, place in zip(learnt, said, strict=False) if place and not vocabulary.is_at(place, ids[at])), None
            )
            where = (
                f"learnt token {learnt.index(at)} is {ids[at]}, and there {_shown(said[learnt.index(at)])}"
                if at is not None
                else ""
            )
            raise MisalignedError(f"its {len(said)} tokens are not the {len(learnt)} learnt ones{': ' * bool(where)}{where}")
        found = [*said[start : start + len(learnt)]]
        found += [None] * (len(learnt) - len(found))
    untold = sum(place is None for place in found)
    if untold > UNTOLD:
        raise MisalignedError(f"the teacher says nothing of {untold} of {len(learnt)} learnt tokens")
    return found


def _fits(said: list[Place | None], ids: list[int], learnt: list[int], vocabulary: Vocabulary) -> bool:
    """Whether what is said begins at the first learnt token; it may end before the last."""
    if len(said) < max(1, len(learnt) - UNTOLD):
        return False
    return all(place is not None and vocabulary.is_at(place, ids[at]) for at, place in zip(learnt, said, strict=False))


def _shown(place: Place | None) -> str:
    return "nothing" if place is None else " or ".join(str(named) for named in sorted(place.stands, key=str)[:3])


def arrays(found: list[Place | None], k: int, vocabulary: Vocabulary) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k likeliest of each, ids and log probabilities [tokens, k], the likeliest first; what is no token of ours is left out."""
    ids, logs = np.full((len(found), k), -1, dtype=np.int32), np.zeros((len(found), k), dtype=np.float32)
    for row, place in enumerate(found):
        known: dict[int, float] = {}
        for named, told in sorted(place.likeliest if place else (), key=lambda pair: -pair[1]):
            token = vocabulary.id_of(named)
            if token is not None and len(known) < k:
                known.setdefault(token, told)
        ids[row, : len(known)], logs[row, : len(known)] = list(known), list(known.values())
    return ids, logs


@dataclass(frozen=True)
class Aligner:
    """Makes the added columns of a split; `datasets` keeps what it made under a fingerprint of the values here."""

    column: str
    layout: Layout
    k: int
    tokenizer: Any

    def split(self, dataset: Dataset) -> Dataset:
        """The data set with the columns; the answers themselves, which may be large, are emptied."""
        features = Features(
            {
                **dataset.features,
                IDS: Sequence(Sequence(Value("int32"), length=self.k)),
                LOGS: Sequence(Sequence(Value("float32"), length=self.k)),
                FAULTS: Sequence(Value("string")),
            }
        )
        return dataset.map(self._batch, batched=True, batch_size=64, features=features, desc="teacher's answers")

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)

    def _batch(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {IDS: [], LOGS: [], FAULTS: [], self.column: []}
        for at, ids in enumerate(rows["input_ids"]):
            lengths = rows["seq_lengths"][at] if "seq_lengths" in rows else [len(ids)]
            values = rows[self.column][at]
            values = [values] if isinstance(values, str) else values
            bounds = pairwise(accumulate(lengths, initial=0))
            parts = [
                self._sample(value, ids[start:end], rows["labels"][at][start:end])
                for value, (start, end) in zip(values, bounds, strict=True)
            ]
            made[IDS].append([row for found, _, _ in parts for row in found.tolist()])
            made[LOGS].append([row for _, found, _ in parts for row in found.tolist()])
            made[FAULTS].append([fault for _, _, fault in parts])
            made[self.column].append("" if isinstance(rows[self.column][at], str) else [""] * len(values))
        return made

    def _sample(self, value: str, ids: Any, labels: Any) -> tuple[NDArray[np.int32], NDArray[np.float32], str]:
        learnt = [at for at, label in enumerate(labels) if label != IGNORED]
        try:
            found, fault = places(read(json.loads(value), self.layout), list(map(int, ids)), learnt, self._vocabulary), ""
        except (LayoutError, MisalignedError) as error:
            found, fault = [None] * len(learnt), str(error)
        return *arrays(found, self.k, self._vocabulary), fault


def tell_faults(run: Run, data: Any, *, skip: bool) -> None:
    """Raise DataError where answers are about other tokens, with the first; or count them: their labels alone are learnt."""
    for split in ("train", "eval"):
        dataset = getattr(data, split)
        if dataset is None:
            continue
        samples, wrong, first = 0, 0, ""
        for row in dataset.select_columns([FAULTS, "row_ids"]).with_format(None):
            samples += len(row[FAULTS])
            for row_id, fault in zip(np.atleast_1d(row["row_ids"]).tolist(), row[FAULTS], strict=True):
                wrong += bool(fault)
                first = first or (f"{data.origin(split, row_id)}: {fault}" if fault else "")
        if wrong and not skip:
            text = f"{split}: the teacher's answers don't fit the tokens of {wrong:,} of {samples:,} samples; {first}"
            raise DataError(text, hint="distill: {on_misaligned: skip} learns such rows from their labels alone")
        if wrong and run.is_main:
            run.alert(
                "the teacher's answers don't fit",
                f"{wrong:,} of {samples:,} samples are learnt from their labels alone; {first}",
            )

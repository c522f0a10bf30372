"""One source into samples: read, convert, render, tokenise and mask in chunks, and count everything on the way."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from longline.data.chat import RowError
from longline.data.formats import Sample, TokenRow, converter, guess, resolve_train_on
from longline.data.masks import ChatMasker, Conversation, Piece
from longline.data.report import LISTED_BAD_ROWS, SourceReport
from longline.data.samples import IGNORED, Builder, trained_tokens
from longline.data.sources import Place, Source
from longline.data.template import TemplateError
from longline.data.tokenize import Encoder, Tokens
from longline.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from longline.config.sections import DataSection, SourceSection, TrainOn

CHUNK_ROWS = 1000
GUESS_ROWS = 100
_SURROGATE = re.compile("[\ud800-\udfff]")

Record = tuple[Place, Mapping[str, Any] | str]
Encoded = list[tuple[Place, Tokens]]


@dataclass(slots=True)
class Tools:
    """What every source is prepared with; `masker` is None when the tokenizer has no chat template."""

    section: DataSection
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    masker: ChatMasker | None

    @classmethod
    def of(cls, section: DataSection, tokenizer: PreTrainedTokenizerBase) -> Tools:
        """Set up for one tokenizer."""
        return cls(section, tokenizer, Encoder(tokenizer), ChatMasker(tokenizer) if tokenizer.chat_template else None)


@dataclass(slots=True)
class SourceRun:
    """The work on one source: converts its rows and puts what is kept into the builder."""

    tools: Tools
    section: SourceSection
    source: Source
    number: int
    builder: Builder
    report: SourceReport
    train_on: TrainOn = "all"

    def run(self) -> None:
        """Read the whole source. Raises DataError for anything that is not one row's fault."""
        started = time.perf_counter()
        records: Iterator[Record] = itertools.islice(self.source.rows(), self.section.limit)
        head = list(itertools.islice(records, GUESS_ROWS))
        if not head:
            raise DataError(f"{self.section.path}: there are no rows")
        self._decide_format(head)
        too_long: list[str] = []
        # The tokenizer works without the interpreter's lock, so the next rows are rendered in the meantime.
        with self.tools.encoder.exact(), ThreadPoolExecutor(1) as worker:
            waiting: Future[Encoded] | None = None
            for chunk in _chunks(itertools.chain(head, records), CHUNK_ROWS):
                good = self._convert(chunk)
                if waiting is not None:
                    self._add_all(waiting.result(), too_long)
                waiting = worker.submit(self._encode, good)
            if waiting is not None:
                self._add_all(waiting.result(), too_long)
        if too_long:
            more = f"\n  and {len(too_long) - LISTED_BAD_ROWS} more" if len(too_long) > LISTED_BAD_ROWS else ""
            raise DataError(
                "rows are longer than max_length:\n  " + "\n  ".join(too_long[:LISTED_BAD_ROWS]) + more,
                hint="raise data.max_length, or set data.too_long to truncate or drop",
            )
        self.report.seconds = time.perf_counter() - started

    def _decide_format(self, head: list[Record]) -> None:
        """Guess if asked to, and check that `train_on` means something."""
        columns = {str(key) for _, row in head if not isinstance(row, str) for key in row}
        self.report.guessed = self.section.format == "auto"
        if self.report.guessed and not columns:
            raise DataError(f"{self.place(head[0][0])}: {head[0][1]}", hint="no row could be read, so no format can be guessed")
        self.report.format = (
            guess(columns, self.section.columns, self.section.path) if self.report.guessed else self.section.format
        )
        self.train_on = resolve_train_on(self.section, self.tools.section.train_on, self.report.format)
        if self.report.format == "chat" and self.tools.masker is None:
            raise DataError(
                f"{self.section.path}: a chat needs a chat template, and the tokenizer has none",
                hint="set model.tokenizer.chat_template, or use a format without a template",
            )
        if self.report.format == "alpaca":
            self.report.note = "through the chat template" if self.tools.masker else "with the Alpaca prompt: no chat template"

    def place(self, place: Place) -> str:
        """`file:line`."""
        return f"{self.source.files[place.file]}:{place.line}"

    def _convert(self, records: list[Record]) -> list[tuple[Place, Piece | TokenRow]]:
        """Convert and render some rows; bad ones are counted. Once a bad row is there that stops, nothing is kept."""
        convert = converter(
            self.section,
            self.report.format,
            self.train_on,
            has_template=self.tools.masker is not None,
            padded=self.source.padded,
            vocabulary=self.tools.encoder.vocabulary,
        )
        good: list[tuple[Place, Piece | TokenRow]] = []
        for place, row in records:
            self.report.rows += 1
            try:
                if isinstance(row, str):
                    raise RowError(row)  # noqa: TRY301 - one way for all bad rows
                good.append((place, self._piece(convert(row))))
            except (RowError, TemplateError) as error:
                self.report.add_bad(self.place(place), str(error))
        return [] if self.report.bad and self.tools.section.on_bad_row == "stop" else good

    def _encode(self, rows: list[tuple[Place, Piece | TokenRow]]) -> Encoded:
        """Tokenise converted rows; runs in the worker thread."""
        return list(zip((place for place, _ in rows), self._tokens([piece for _, piece in rows]), strict=True))

    def _add_all(self, rows: Encoded, too_long: list[str]) -> None:
        for place, tokens in rows:
            self._add(place, tokens, too_long)

    def _piece(self, sample: Sample) -> Piece | TokenRow:
        if isinstance(sample, TokenRow):
            return sample
        if isinstance(sample, Conversation):
            if self.tools.masker is None:
                raise RowError("messages need a chat template, and the tokenizer has none")
            sample = self.tools.masker.piece(sample, self.train_on)
        if not sample.text.isascii() and _SURROGATE.search(sample.text):
            raise RowError("the text holds half of a surrogate pair, which is no character")
        return sample

    def _tokens(self, pieces: list[Piece | TokenRow]) -> Iterator[Tokens]:
        """Tokens of each piece, in order; texts go through the tokenizer together."""
        limit = self.tools.section.max_length if self.tools.section.too_long == "truncate" else None
        add_eos = self.tools.section.add_eos and self.report.format != "segments"
        encode = self.tools.encoder.encode
        chats = iter(
            encode([item for item in pieces if isinstance(item, Piece) and item.chat], raw=False, add_eos=False, limit=limit)
        )
        texts = [item for item in pieces if isinstance(item, Piece) and not item.chat]
        raws = iter(encode(texts, raw=True, add_eos=add_eos, limit=limit))
        for piece in pieces:
            if isinstance(piece, TokenRow):
                yield _ready(piece, limit)
            else:
                yield next(chats if piece.chat else raws)

    def _add(self, place: Place, tokens: Tokens, too_long: list[str]) -> None:
        """Keep a sample, or count why not."""
        report, section = self.report, self.tools.section
        if len(tokens.ids) > section.max_length:
            if section.too_long == "error":
                too_long.append(f"{self.place(place)}: {len(tokens.ids)} tokens, the limit is {section.max_length}")
            report.dropped += 1
            return
        report.truncated += tokens.truncated
        report.straddling += tokens.straddles
        trained = trained_tokens(tokens.labels)
        if not trained:
            report.untrained += 1
            if len(report.untrained_rows) < LISTED_BAD_ROWS:
                report.untrained_rows.append(self.place(place))
            return
        report.kept += 1
        report.tokens += len(tokens.ids)
        report.trained_tokens += trained
        report.terminators += tokens.terminators
        self.builder.add(tokens, trained, place.file, place.line, self.number)


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _ready(row: TokenRow, limit: int | None) -> Tokens:
    """A row that came tokenised, with the first label masked and cut like any other."""
    ids = np.array(row.ids[:limit], dtype=np.int32)
    labels = ids.copy() if row.labels is None else np.array(row.labels[:limit], dtype=np.int32)
    labels[labels < 0] = IGNORED
    labels[0] = IGNORED
    return Tokens(ids, labels, truncated=limit is not None and len(row.ids) > limit)

"""One source into samples: read, convert, render, tokenise and mask in chunks, and count everything on the way."""

from __future__ import annotations

import itertools
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from longline.data.chat import RowError
from longline.data.formats import Converter, Sample, TokenRow, converter, guess, refuse_unusable, resolve_train_on, shape_of
from longline.data.masks import ChatMasker, Conversation, Piece
from longline.data.pairs import PairTokens, paired
from longline.data.preference import Asked, Labelled, Pair
from longline.data.prepared import PACKED
from longline.data.report import LISTED_BAD_ROWS, SourceReport
from longline.data.samples import IGNORED, Builder, Extra, trained_tokens
from longline.data.sources import Place, Source
from longline.data.template import TemplateError
from longline.data.tokenize import Encoder, Tokens
from longline.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from longline.config.sections import DataSection, SourceSection, TrainOn
    from longline.data.prepared import Layout
    from longline.data.shapes import Shape

CHUNK_ROWS = 500
WORKERS = 2
GUESS_ROWS = 100
_SURROGATE = re.compile("[\ud800-\udfff]")

Record = tuple[Place, Mapping[str, Any] | str]
Written = tuple[Place, "list[Piece | TokenRow]", "Extra"]
"""A row as what is tokenised (of a pair two, else one) and what it has beside that."""
Encoded = list[tuple[Place, Tokens, "Extra"]]


@dataclass(slots=True)
class Tools:
    """What every source is prepared with; `masker` is None when the tokenizer has no chat template."""

    section: DataSection
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    masker: ChatMasker | None
    layout: Layout

    @classmethod
    def of(cls, section: DataSection, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> Tools:
        """Set up for one tokenizer."""
        masker = ChatMasker(tokenizer) if tokenizer.chat_template else None
        return cls(section, tokenizer, Encoder(tokenizer), masker, layout)

    @property
    def samples_only(self) -> bool:
        """Whether the rows are plain samples, packed or not: neither answers to compare nor prompts."""
        return self.layout == "padded" or self.layout in PACKED


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
    too_long: list[str] = field(default_factory=list)
    templated: list[int] = field(default_factory=lambda: [0, 0])
    plain_prompt: str | None = None

    def run(self) -> None:
        """Read the whole source. Raises DataError for anything that is not one row's fault."""
        started = time.perf_counter()
        records: Iterator[Record] = itertools.islice(self.source.rows(), self.section.limit)
        head = list(itertools.islice(records, GUESS_ROWS))
        if not head:
            raise DataError(f"{self.section.path}: there are no rows")
        convert = self._decide_format(head)
        # The tokenizer works without the interpreter's lock and on all cores, so the next rows are rendered in the meantime;
        # there are two workers, so that it goes on while one makes labels of what it gave.
        with self.tools.encoder.exact(), ThreadPoolExecutor(WORKERS) as workers:
            waiting: deque[Future[Encoded]] = deque()
            for chunk in _chunks(itertools.chain(head, records), CHUNK_ROWS):
                waiting.append(workers.submit(self._encode, self._convert(chunk, convert)))
                if len(waiting) > WORKERS:
                    self._add_all(waiting.popleft().result())
            for encoded in waiting:
                self._add_all(encoded.result())
        self._refuse_long()
        self._note()
        self.report.seconds = time.perf_counter() - started

    def _refuse_long(self) -> None:
        if not self.too_long:
            return
        unlisted = self.report.dropped - len(self.too_long)
        more = f"\n  and {unlisted} more" if unlisted else ""
        prompts = self.tools.layout == "prompts"
        raise DataError(
            f"{'prompts' if prompts else 'rows'} are longer than max_length:\n  " + "\n  ".join(self.too_long) + more,
            hint=f"raise data.max_length, or set data.too_long to {'drop: a prompt is not cut' if prompts else 'truncate or drop'}",
        )

    def _decide_format(self, head: list[Record]) -> Converter:
        """Guess if asked to, check that `train_on` means something, and give what reads a row."""
        columns = {str(key) for _, row in head if not isinstance(row, str) for key in row}
        self.report.guessed = self.section.format == "auto"
        if self.report.guessed:
            if not columns:
                hint = "no row could be read, so no format can be guessed"
                raise DataError(f"{self.place(head[0][0])}: {head[0][1]}", hint=hint)
            self.report.format = guess(columns, self.section.columns, self.section.path, self.tools.layout)
        else:
            self.report.format = self.section.format
            refuse_unusable(self.report.format, self.tools.layout, self.section.path)
        self.train_on = resolve_train_on(self.section, self.tools.section.train_on, self.report.format)
        if self.report.format == "chat" and self.tools.masker is None:
            raise DataError(
                f"{self.section.path}: a chat needs a chat template, and the tokenizer has none",
                hint="set model.tokenizer.chat_template, or use a format without a template",
            )
        if self.report.format == "alpaca":
            self.report.note = "through the chat template" if self.tools.masker else "with the Alpaca prompt: no chat template"
        return converter(
            self.section,
            self.report.format,
            self.train_on,
            has_template=self.tools.masker is not None,
            padded=self.source.padded,
            vocabulary=self.tools.encoder.vocabulary,
            shape=self._shape(columns),
        )

    def _shape(self, columns: set[str]) -> Shape | None:
        """The columns of a preference or a prompt; None for other formats."""
        shape = shape_of(self.report.format, self.section.columns, columns, self.section.path)
        if shape and shape.chat and self.tools.masker is None:
            raise DataError(
                f"{self.section.path}: a question or a system prompt needs a chat template, and the tokenizer has none",
                hint="set model.tokenizer.chat_template, or take the text as it is with `columns: {prompt: ...}`",
            )
        self.plain_prompt = shape.prompt if shape else None
        return shape

    def _note(self) -> None:
        """Say how many prompts went through the chat template."""
        plain, chats = self.templated
        if chats:
            self.report.note = "through the chat template" + (f", but {plain} as plain text" if plain else "")
        elif plain:
            way = f": `columns: {{question: {self.plain_prompt}}}` would use it" if self.plain_prompt else ""
            self.report.note = "as plain text" + (f", without the chat template{way}" if self.tools.masker else "")

    def place(self, place: Place) -> str:
        """`file:line`."""
        return f"{self.source.files[place.file]}:{place.line}"

    def _convert(self, records: list[Record], convert: Converter) -> list[Written]:
        """Convert and render some rows; bad ones are counted. Once a bad row is there that stops, nothing is kept."""
        good: list[Written] = []
        for place, row in records:
            self.report.rows += 1
            try:
                if isinstance(row, str):
                    raise RowError(row)  # noqa: TRY301 - one way for all bad rows
                good.append((place, *self._written(convert(row))))
            except (RowError, TemplateError) as error:
                self.report.add_bad(self.place(place), str(error))
        return [] if self.report.bad and self.tools.section.on_bad_row == "stop" else good

    def _encode(self, rows: list[Written]) -> Encoded:
        """Tokenise converted rows, all their texts together; runs in the worker thread."""
        tokens = self._tokens([piece for _, pieces, _ in rows for piece in pieces])
        if self.tools.layout == "pairs":
            return [(place, paired(next(tokens), next(tokens)), extra) for place, _, extra in rows]
        return [(place, next(tokens), extra) for place, _, extra in rows]

    def _add_all(self, rows: Encoded) -> None:
        for place, tokens, extra in rows:
            self._add(place, tokens, extra)

    def _written(self, sample: Sample) -> tuple[list[Piece | TokenRow], Extra]:
        """What is tokenised of a sample, and what it has beside that."""
        if isinstance(sample, TokenRow):
            return [sample], None
        if isinstance(sample, (Conversation, Piece)):
            return [self._piece(sample)], None
        pieces: list[Piece]
        extra: Extra = None
        if isinstance(sample, Pair):
            chosen, rejected = self._piece(sample.chosen), self._piece(sample.rejected)
            if _before(chosen) != _before(rejected):
                raise RowError(
                    "the chat template writes the prompt in front of one answer otherwise than in front of the other"
                )
            pieces = [chosen, rejected]
        elif isinstance(sample, Labelled):
            pieces, extra = [self._piece(sample.sample)], sample.label
        else:
            pieces, extra = [self._asked(sample)], sample.row
        self.templated[pieces[0].chat] += 1
        return [*pieces], extra

    def _piece(self, sample: Conversation | Piece) -> Piece:
        """The text of a sample with what is learnt of it."""
        if isinstance(sample, Conversation):
            sample = self._masker().piece(sample, self.train_on)
        return _characters(sample)

    def _asked(self, sample: Asked) -> Piece:
        """The text of a prompt; what goes to the reward functions must be text too."""
        if not sample.row.text.isascii() and _SURROGATE.search(sample.row.text):
            raise RowError("the row holds half of a surrogate pair, which is no character")
        return self._masker().asked(sample.prompt) if isinstance(sample.prompt, Conversation) else sample.prompt

    def _masker(self) -> ChatMasker:
        if self.tools.masker is None:
            raise RowError("messages need a chat template, and the tokenizer has none")
        return self.tools.masker

    def _tokens(self, pieces: list[Piece | TokenRow]) -> Iterator[Tokens]:
        """Tokens of each piece, in order; texts go through the tokenizer together."""
        truncate = self.tools.section.too_long == "truncate" and self.tools.layout != "prompts"
        limit = self.tools.section.max_length if truncate else None
        add_eos = self.tools.section.add_eos and self.report.format not in ("segments", "prompts")
        options: dict[str, Any] = {"limit": limit, "across": not self.tools.samples_only}
        encode = self.tools.encoder.encode
        chats = iter(
            encode([item for item in pieces if isinstance(item, Piece) and item.chat], raw=False, add_eos=False, **options)
        )
        texts = [item for item in pieces if isinstance(item, Piece) and not item.chat]
        raws = iter(encode(texts, raw=True, add_eos=add_eos, **options))
        for piece in pieces:
            if isinstance(piece, TokenRow):
                yield _ready(piece, limit)
            else:
                yield next(chats if piece.chat else raws)

    def _add(self, place: Place, tokens: Tokens, extra: Extra) -> None:
        """Keep a sample, or count why not."""
        report, section = self.report, self.tools.section
        pair = tokens if isinstance(tokens, PairTokens) else None
        longest = pair.longest if pair else len(tokens.ids)
        if longest > section.max_length:
            report.dropped += 1
            refused = section.too_long == "error" or (section.too_long == "truncate" and self.tools.layout == "prompts")
            if refused and len(self.too_long) < LISTED_BAD_ROWS:
                self.too_long.append(f"{self.place(place)}: {longest} tokens, the limit is {section.max_length}")
            return
        report.truncated += tokens.truncated
        report.straddling += tokens.straddles
        trained = trained_tokens(tokens.labels)
        if (not trained and self.tools.layout != "prompts") or (pair and not pair.complete):
            report.untrained += 1
            if len(report.untrained_rows) < LISTED_BAD_ROWS:
                report.untrained_rows.append(self.place(place))
        elif pair and pair.identical:
            report.identical += 1
            if len(report.identical_rows) < LISTED_BAD_ROWS:
                report.identical_rows.append(self.place(place))
        else:
            self._keep(place, tokens, trained, pair.head if pair else extra)

    def _keep(self, place: Place, tokens: Tokens, trained: int, extra: Extra) -> None:
        report = self.report
        report.kept += 1
        report.good += extra is True
        report.tokens += len(tokens.ids)
        report.trained_tokens += trained
        report.terminators += tokens.terminators
        self.builder.add(tokens.ids, tokens.labels, trained, place.file, place.line, self.number, extra)


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


def _characters(piece: Piece) -> Piece:
    """A text that holds nothing but characters. Raises RowError."""
    if not piece.text.isascii() and _SURROGATE.search(piece.text):
        raise RowError("the text holds half of a surrogate pair, which is no character")
    return piece


def _before(piece: Piece) -> str:
    """The text in front of what is learnt first."""
    return piece.text[: piece.spans[0][0]] if piece.spans else piece.text

"""One source into samples, stage by stage: rows, samples, text with learnt spans, tokens, what the builder keeps.

The stages run over chunks of rows, and everything is counted on the way.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from longline.data import formats, readers
from longline.data.formats import Format, Opened, Reader
from longline.data.mapped import MappedNames
from longline.data.reading import Watched, unread
from longline.data.ready import TokenChecks, as_tokens
from longline.data.report import LISTED_BAD_ROWS, SourceReport, on_a_screen
from longline.data.specials import Specials
from longline.data.splitting import pieces
from longline.data.template import TemplateError
from longline.data.values import Origin, Piece, RowError, TokenRow, Tokens, refuse_halves
from longline.errors import DataError
from longline.events import IGNORED

if TYPE_CHECKING:
    from longline.config.sections import DataSection, SourceSection, TooLong
    from longline.data.keeping import Keeping
    from longline.data.kinds import Kind
    from longline.data.masks import ChatMasker
    from longline.data.notes import Notes
    from longline.data.sources import Source
    from longline.data.store.samples import Builder
    from longline.data.tokenize import Encoder
    from longline.data.values import Row, Sample, Written

CHUNK_ROWS = 500
CHUNK_LENGTH = 1 << 22
"""A chunk with rows of so many characters, or token ids, has no more of them: memory does not grow with documents."""
WORKERS = 2
GUESS_ROWS = 100

Record = tuple[Origin, Mapping[str, Any] | str]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as what is tokenised, what its kind keeps beside that, and the further columns: of the row, and of its tokens."""

    origin: Origin
    pieces: list[Written]
    beside: Values
    kept: Values
    aligned: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row in tokens, or what is wrong with it."""

    origin: Origin
    tokens: Tokens | None
    beside: Values
    kept: Values
    wrong: str = ""
    ends: Sequence[int] = ()


@dataclass(slots=True)
class Tools:
    """What every source is prepared with; `masker` is None when the tokenizer has no chat template."""

    section: DataSection
    encoder: Encoder
    masker: ChatMasker | None
    kind: Kind
    keeping: Keeping
    brought_by: str
    notes: Notes


@dataclass(slots=True)
class SourceRun:
    """The work on one source: converts its rows and puts what is kept into the builder."""

    tools: Tools
    section: SourceSection
    source: Source
    number: int
    builder: Builder
    report: SourceReport
    format: Format = field(init=False)
    opened: Opened = field(init=False)
    rule: TooLong = field(init=False)
    checks: TokenChecks = field(init=False)
    mapped: MappedNames = field(init=False)
    specials: Specials = field(init=False)
    too_long: list[str] = field(default_factory=list)
    templated: list[int] = field(default_factory=lambda: [0, 0])
    ends: Counter[int] = field(default_factory=Counter)
    inside: set[int] = field(default_factory=set)

    def run(self) -> None:
        """Read the whole source. Raises DataError for anything that is not one row's fault."""
        started = time.perf_counter()
        records: Iterator[Record] = itertools.islice(self.source.rows(), self.section.limit)
        head = next(_chunks(records, GUESS_ROWS), [])
        if not head:
            raise DataError(f"{self.section.path}: there are no rows")
        reader = self._reader(head)
        self.checks = TokenChecks(self.tools.encoder, self.tools.notes)
        self.specials = self._specials()
        self._learn(head, reader)
        if self.tools.kind.learns:  # else reward functions get every column
            head = [(origin, row if isinstance(row, str) else Watched(row)) for origin, row in head]
        # The tokenizer works without the interpreter's lock and on all cores, so the next rows are rendered in the meantime;
        # there are two workers, so that it goes on while one makes labels of what it gave.
        # Threads and not processes: forking beside an importing torch is unsafe, and a spawned process costs more than it
        # brings.
        with self.tools.encoder.exact(), ThreadPoolExecutor(WORKERS) as workers:
            waiting: deque[Future[list[Encoded]]] = deque()
            for chunk in itertools.chain([head], _chunks(records, CHUNK_ROWS)):
                waiting.append(workers.submit(self._encode, self._render(chunk, reader)))
                if len(waiting) > WORKERS:
                    self._add_all(waiting.popleft().result())
            for encoded in waiting:
                self._add_all(encoded.result())
        # What only a broken row would have asked for may be missing in the account.
        stops = self.report.bad and (self.tools.section.on_bad_row == "stop" or self.report.bad == self.report.rows)
        self.mapped.refuse(None if stops else self.format.name)
        self._refuse_long()
        self.report.ends = self._ends()
        self.report.unread = unread(row for _, row in head)
        self.report.note = "; ".join(filter(None, [reader.note(*self.templated), *self.source.notes]))
        self.report.detail = self.tools.kind.detail(self.report)
        self.report.seconds = time.perf_counter() - started

    def _specials(self) -> Specials:
        rule = self.section.special_tokens or self.tools.section.special_tokens
        if rule == "escape" and not self.tools.kind.learns:
            text = f"{self.section.path}: the trainer makes tokens of prompts, so that no special token can be escaped"
            raise DataError(text, hint="special_tokens: refuse")
        return Specials(rule, self.tools.notes, self.tools.encoder.special_texts)

    def _ends(self) -> dict[str, int]:
        """The tokens that end answers; of prompts the one that the template puts behind an answer."""
        ends = self.tools.masker.ends if self.tools.masker else None
        if not self.tools.kind.learns:
            last = ends.last() if ends and self.templated[1] else ""
            return {last: 0} if last else {}
        name = self.tools.encoder.backend.id_to_token
        found = {str(name(token)): count for token, count in self.ends.items() if token not in self.inside}
        return {token: count for token, count in found.items() if not ends or token not in ends.inside}

    def _refuse_long(self) -> None:
        if not self.too_long:
            return
        kind = self.tools.kind
        raise DataError(
            f"{'rows' if kind.cuts else kind.unit or 'samples'} are longer than max_length:"
            f"{on_a_screen(self.too_long, self.report.dropped)}",
            hint=f"raise data.max_length, or set data.too_long to "
            f"{'split, ' * kind.packs}{'truncate or drop' if kind.cuts else f'drop: a {kind.name} is not cut'}",
        )

    # --- source -> format -------------------------------------------------------------------------

    def _reader(self, head: list[Record]) -> Reader:
        """What reads a row. A mapped name that is not there is the better reason for what can't be opened."""
        self.mapped = MappedNames(self.section.columns, self.section.path)
        for _, row in head:
            if not isinstance(row, str):
                self.mapped.look(row)
        try:
            return self._open(head)
        except DataError:
            self.mapped.refuse()
            raise

    def _open(self, head: list[Record]) -> Reader:
        """Guess the format if asked to, check that `train_on` means something, and give what reads a row."""
        columns = {str(key) for _, row in head if not isinstance(row, str) for key in row}
        self.format = self._decide(head, columns)
        self.report.format, self.report.ends_turns = self.format.name, self.format.ends_turns
        self._decide_length()
        train_on = formats.resolve_train_on(self.section, self.tools.section.train_on, self.format)
        if self.format.needs_template and self.tools.masker is None:
            raise DataError(
                f"{self.section.path}: a {self.format.name} needs a chat template, and the tokenizer has none",
                hint="set model.tokenizer.chat_template, or use a format without a template",
            )
        self.opened = Opened(
            path=self.section.path,
            found=columns,
            names=self.mapped.names,
            roles=self.section.roles,
            train_on=train_on,
            padded=self.source.padded,
            has_template=self.tools.masker is not None,
            vocabulary=self.tools.encoder.vocabulary,
            tool_arguments=self.tools.section.tool_arguments,
            notes=self.tools.notes,
        )
        return self.format.open(self.opened)

    def _decide_length(self) -> None:
        """What becomes of rows that are too long. Raises DataError where they can't be split, or joined, as is asked for."""
        section, kind = self.tools.section, self.tools.kind
        splits = self.format.splits and kind.packs
        self.rule = self.section.too_long or section.too_long or ("split" if splits else "truncate")
        self.report.splits = self.rule == "split"
        if self.rule == "split" and not kind.packs:
            text = f"{self.section.path}: a {kind.name} is one whole and cannot be split"
            raise DataError(text, hint=f"set too_long: {'truncate or ' * kind.cuts}drop")
        if section.join and self.rule != "split":
            hint = "set `too_long: split` of this source if its rows may be cut anywhere, or remove data.join"
            raise DataError(
                f"{self.section.path}: rows of the format {self.format.name!r} are not joined by themselves", hint=hint
            )

    def _decide(self, head: list[Record], columns: set[str]) -> Format:
        path, kind, brought_by = self.section.path, self.tools.kind, self.tools.brought_by
        self.report.guessed = self.section.format == "auto"
        if not self.report.guessed:
            found = formats.find(self.section.format)
            formats.refuse_unusable(found, kind, path, brought_by)
            return found
        if not columns:
            hint = "no row could be read, so no format can be guessed"
            raise DataError(f"{self.where(head[0][0])}: {head[0][1] or 'the row is empty'}", hint=hint)
        try:
            return formats.guess(columns, self.section.columns, path, kind, brought_by)
        except DataError as error:
            endings = readers.kind_of(self.source.files[0]) or ("", "")
            if len(head) == 1 and endings[0] in readers.APPLY["field"] and (held := _list_in(head[0][1])):
                error.hint = f"the rows of a list in it are read by `field:` of this source, such as `field: {held}`"
            raise

    def _learn(self, head: list[Record], reader: Reader) -> None:
        """Whether the further columns are there, and what type those have that say none, from the first rows."""
        keeping = self.tools.keeping
        if keeping.unknown or keeping.columns:
            rows = [row for _, row in head if not isinstance(row, str)]
            keeping.learn([(row, _tried(reader.sample, row)) for row in rows], self.section.path)
            self.tools.notes.found.clear()  # these rows are read again
        self.builder.keep(keeping.columns)

    def where(self, origin: Origin) -> str:
        """`file:line`."""
        return f"{self.source.files[origin.file]}:{origin.line}"

    # --- format -> template and masks -------------------------------------------------------------

    def _render(self, records: list[Record], reader: Reader) -> list[Rendered]:
        """Convert and render some rows; bad ones are counted. Once a bad row is there that stops, nothing is kept."""
        good: list[Rendered] = []
        notes = self.tools.notes.found
        for origin, row in records:
            self.report.rows += 1
            try:
                if isinstance(row, str):
                    raise RowError(row)  # noqa: TRY301 - one way for all bad rows
                if self.mapped.missing:
                    self.mapped.look(row)
                good.append(self._rendered(origin, row, reader.sample(row)))
            except (RowError, TemplateError) as error:
                self.report.add_bad(self.where(origin), str(error), getattr(error, "hint", ""))
                notes.clear()
            if notes:
                self._note(origin, notes)
        return [] if self.report.bad and self.tools.section.on_bad_row == "stop" else good

    def _note(self, origin: Origin, notes: dict[str, tuple[str, bool]]) -> None:
        for text, (example, warns) in notes.items():
            self.report.add_notice(text, self.where(origin), example, warns=warns)
        notes.clear()

    def _rendered(self, origin: Origin, row: Row, sample: Sample) -> Rendered:
        written = self.tools.kind.write(self.specials.hide(sample), self.tools.masker, self.opened.train_on)
        pieces = [self.specials.show(piece) for piece in written]
        for piece in pieces:
            if isinstance(piece, Piece):
                refuse_halves(piece.text, "the text")
            else:
                self.checks.check(piece)
        kept, aligned = self.tools.keeping.values(row, sample)
        # How many went through the chat template is told, since text that should have and did not trains on another form.
        self.templated[isinstance(pieces[0], Piece) and pieces[0].chat] += 1
        return Rendered(origin, pieces, sample.beside, kept, aligned)

    # --- tokens -> kind ---------------------------------------------------------------------------

    def _encode(self, rows: list[Rendered]) -> list[Encoded]:
        """Tokenise rows, all their texts together, and join their parts; runs in the worker thread."""
        tokens = self._tokens([piece for row in rows for piece in row.pieces])
        return [self._joined(row, list(itertools.islice(tokens, len(row.pieces)))) for row in rows]

    def _joined(self, row: Rendered, parts: list[Tokens]) -> Encoded:
        try:
            for tokens, values in zip(parts, row.aligned, strict=False):
                tokens.columns = _cut(values, tokens)
        except RowError as error:
            return Encoded(row.origin, None, row.beside, row.kept, str(error))
        ends = [end for tokens in parts for end in tokens.ends or self._last(tokens)]
        tokens, beside = self.tools.kind.join(parts, row.beside)
        return Encoded(row.origin, tokens, beside, {**row.kept, **tokens.columns}, ends=ends)

    def _last(self, tokens: Tokens) -> list[int]:
        """The special token with which a text without turns ends, unless it also stands in the middle of what is learnt."""
        last = int(tokens.labels[-1]) if len(tokens.labels) else IGNORED
        if tokens.truncated or last not in self.tools.encoder.special:
            return []
        learnt = tokens.labels[1:] != IGNORED
        if bool((learnt & (tokens.labels[:-1] == last)).any()):
            self.inside.add(last)
        return [last]

    def _tokens(self, pieces: Sequence[Written]) -> Iterator[Tokens]:
        """Tokens of each piece, in order; texts go through the tokenizer together."""
        section, kind = self.tools.section, self.tools.kind
        limit = section.max_length if self.rule == "truncate" and kind.cuts else None
        options: dict[str, Any] = {"limit": limit, "across": kind.compares, "first": section.join}
        encode = self.tools.encoder.encode
        chats = iter(
            encode([item for item in pieces if isinstance(item, Piece) and item.chat], raw=False, add_eos=False, **options)
        )
        texts = [item for item in pieces if isinstance(item, Piece) and not item.chat]
        raws = iter(encode(texts, raw=True, add_eos=section.add_eos and self.format.adds_eos, **options))
        for piece in pieces:
            if isinstance(piece, TokenRow):
                yield as_tokens(piece, limit, first=section.join)
            else:
                yield next(chats if piece.chat else raws)

    # --- kind -> store ----------------------------------------------------------------------------

    def _add_all(self, rows: list[Encoded]) -> None:
        for row in rows:
            if row.tokens is None:
                self.report.add_bad(self.where(row.origin), row.wrong)
            else:
                self._add(row, row.tokens)

    def _add(self, row: Encoded, tokens: Tokens) -> None:
        """Keep a row, in one sample or in several, or count why not."""
        report, section, kind = self.report, self.tools.section, self.tools.kind
        width = kind.width(tokens, row.beside)
        cut = tokens.whole - len(tokens.ids) if tokens.truncated else 0
        if width > section.max_length and self.rule != "split":
            report.dropped += 1
            report.lost += len(tokens.ids) + cut
            refused = self.rule == "error" or (self.rule == "truncate" and not kind.cuts)
            if refused and len(self.too_long) < LISTED_BAD_ROWS:
                self.too_long.append(f"{self.where(row.origin)}: {width} tokens, the limit is {section.max_length}")
            return
        report.truncated += tokens.truncated
        report.straddling += tokens.straddles
        whole = width <= section.max_length or section.join
        faults = self._add_pieces(row, [tokens] if whole else pieces(tokens, section.max_length, section.overlap))
        if faults is None:
            report.kept += 1
            report.split_rows += not whole
            report.truncated_kept += tokens.truncated
            report.lost += cut
            report.terminators += tokens.terminators
            self.ends.update(row.ends)
            kind.count(report, row.beside)
        else:
            report.lost += len(tokens.ids) + cut if tokens.truncated else 0
            report.leave_out(faults, self.where(row.origin))

    def _add_pieces(self, row: Encoded, parts: Iterable[Tokens]) -> str | None:
        """Put the samples of a row into the builder; what is wrong with the last of them if none was kept."""
        report, kind = self.report, self.tools.kind
        kept, faults = 0, []
        for part in parts:
            if fault := kind.fault(part, row.beside):
                faults.append(fault)
                continue
            trained = int(np.count_nonzero(part.labels != IGNORED))
            report.tokens += len(part.ids)
            report.trained_tokens += trained
            values = {**row.kept, **part.columns}
            self.builder.add(part, trained, row.origin, self.number, row.beside, values, further=kept > 0)
            kept += 1
        report.pieces += kept
        report.idle += len(faults) if kept else 0
        return None if kept else faults[-1]


def _list_in(row: Row | str) -> str:
    """The first column of a row that is a list of mappings, as rows are; empty where there is none."""
    for key, value in () if isinstance(row, str) else row.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            return str(key)
    return ""


def _tried(convert: Callable[[Row], Sample], row: Row) -> Sample | None:
    """The sample of a row; None for a bad one, which is told of later."""
    try:
        return convert(row)
    except RowError:
        return None


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """So many rows at a time, or fewer where they are long."""
    chunk: list[Record] = []
    length = 0
    for record in records:
        chunk.append(record)
        row = record[1]
        length += sum(len(value) for value in row.values() if isinstance(value, (str, list))) if isinstance(row, Mapping) else 0
        if len(chunk) == size or length >= CHUNK_LENGTH:
            yield chunk
            chunk, length = [], 0
    if chunk:
        yield chunk


def _cut(values: dict[str, Any], tokens: Tokens) -> dict[str, Any]:
    """Values that are aligned to tokens, cut with them. Raises RowError for another number of values."""
    start, whole = tokens.padding[0], tokens.whole + sum(tokens.padding)
    for name, column in values.items():
        if len(column) != whole:
            raise RowError(f"the column {name!r} has {len(column)} values for {whole} tokens")
    return {name: column[start : start + len(tokens.ids)] for name, column in values.items()}

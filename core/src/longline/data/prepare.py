"""Prepares the data of a run: every source into samples, the samples into one data set for each split."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from longline.config import doors
from longline.data import doubles, mixing
from longline.data.ends import named_ends
from longline.data.keeping import Keeping
from longline.data.masks import ChatMasker
from longline.data.notes import Notes
from longline.data.packing import Packs, efficiency, pack
from longline.data.pipeline import SourceRun, Tools
from longline.data.prepared import Origins, Prepared, Table
from longline.data.report import DataReport, SourceReport, SplitReport
from longline.data.sources import Source, open_source
from longline.data.splitting import joined
from longline.data.store.cache import CacheBroken, Entry, cache_root, fingerprint, write
from longline.data.store.samples import Builder, Layout, Samples, record_batches
from longline.data.tokenize import Encoder
from longline.data.verdicts import judge
from longline.errors import DataError
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from longline.config.sections import DataSection, SourceSection
    from longline.data.kinds import Kind
    from longline.data.values import Longs, Packing
    from longline.events import Column

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be made of the data: rows of a kind, packed or not, in an order fixed by the seed, with further columns.

    `brought_by` is the distribution of the method, whose formats are guessed, too.
    """

    kind: Kind
    packing: Packing | None
    seed: int
    columns: tuple[Column, ...]
    brought_by: str


def prepare(
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: Kind,
    seed: int,
    packing: Packing | None = None,
    columns: Sequence[Column] = (),
    brought_by: str = doors.CORE,
) -> Prepared:
    """Read, tokenise, mask, mix and (with `packing`) pack the data that `section` names, or take it from the cache.

    `columns` are further ones beside those of `section.keep`; `brought_by` is the distribution of the method, whose formats are
    guessed beside the core's. Raises DataError for anything that is wrong with the data, naming files and lines. Without
    `section.cache`, or where the cache can't be written, everything stays in memory.
    """
    if packing and not kind.packs:
        raise DataError(f"rows of the kind {kind.name!r} cannot be packed", hint="remove data.packing")
    if section.join and (not kind.packs or kind.beside):
        raise DataError(f"a {kind.name} is one whole and cannot be joined with others", hint="remove data.join")
    wanted = Wanted(kind, packing, seed, tuple(columns), brought_by)
    opened = open_sources(section)
    key = fingerprint(section, tokenizer, opened, wanted)

    def work(folder: Path | None = None) -> tuple[dict[str, Table], DataReport]:
        return build(section, tokenizer, opened, wanted, key=key, folder=folder)

    if not section.cache:
        return _in_memory(*work())
    entry = Entry(cache_root(section.cache_dir), key)
    try:
        with entry.locked():
            if found := _cached(entry):
                return found
            with entry.partial() as folder:
                _write(entry, folder, *work(folder))
            # What was written is mapped from there, as every later run maps it: memory does not hold the tokens.
            return _cached(entry, fresh=True) or _in_memory(*work())
    except OSError as error:
        tables, report = work()
        report.warnings.append(f"the cache {entry.root} can't be used, the data stays in memory: {error}")
        return _in_memory(tables, report)


def _write(entry: Entry, folder: Path, tables: dict[str, Table], report: DataReport) -> None:
    """Make the entry."""
    started = time.perf_counter()
    for split, table in tables.items():
        write(folder, split, table)
    report.seconds += time.perf_counter() - started
    entry.publish(folder, {split: table.origins.names for split, table in tables.items()}, report)


def _cached(entry: Entry, *, fresh: bool = False) -> Prepared | None:
    """The cached data, or None when there is none or it is damaged."""
    from datasets import Dataset

    started = time.perf_counter()
    try:
        found = entry.read()
    except CacheBroken as error:
        logger.warning("the cached data in %s is damaged (%s); it is prepared again", entry.path, error)
        return None
    if found is None:
        return None
    tables, origins, report = found
    made = {split: Dataset(table, fingerprint=f"{entry.key}-{split}") for split, table in tables.items()}
    report.cache_path = str(entry.path)
    if not fresh:
        report.cache_hit, report.seconds = True, time.perf_counter() - started
    return Prepared(made["train"], made.get("eval"), report, origins)


def _in_memory(tables: dict[str, Table], report: DataReport) -> Prepared:
    """The data without the cache."""
    from datasets import Dataset

    made = {
        split: Dataset(
            pa.Table.from_batches(list(table.batches), schema=table.schema), fingerprint=f"{report.fingerprint}-{split}"
        )
        for split, table in tables.items()
    }
    return Prepared(made["train"], made.get("eval"), report, {split: table.origins for split, table in tables.items()})


def build(
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    opened: dict[str, list[Source]],
    wanted: Wanted,
    *,
    key: str = "",
    folder: Path | None = None,
) -> tuple[dict[str, Table], DataReport]:
    """Do the work without the cache. With a `folder` the tokens are kept in files there until the tables are written."""
    started = time.perf_counter()
    kind = wanted.kind
    report = DataReport(max_length=section.max_length, layout=kind.layout(wanted.packing), fingerprint=key)
    report.unit, report.learns = kind.unit, kind.learns
    # Formats of plain text need no template, so its absence is told by the format that does.
    notes = Notes(section.allow_dropped)
    named = named_ends(tokenizer, section.end_of_turn)
    masker = ChatMasker(tokenizer, named, notes) if tokenizer.chat_template else None
    keeping = Keeping.of(section.keep, wanted.columns, kind, wanted.packing)
    tools = Tools(section, Encoder(tokenizer), masker, kind, keeping, wanted.brought_by, notes)
    samples = {
        split: _collect(tools, sections, opened[split], split, report, folder)
        for split, sections in (("train", section.train), ("eval", section.eval))
        if sections
    }
    report.columns = [asdict(column) for column in keeping.columns]
    if section.join and (own := next((column.name for column in keeping.columns if column.align == "row"), None)):
        text = f"the column {own!r} has a value for each row, and joined rows have none of their own"
        raise DataError(text, hint="leave it out of data.keep")
    if section.overlap and not any(source.splits for source in report.sources):
        raise DataError("data.overlap is set, and no source is split", hint="remove it, or set data.too_long: split")
    judge(section, kind, report)
    kind.complete(samples, opened)
    layout = Layout(kind, wanted.packing, tuple(keeping.columns))
    tables = _tables(section, samples, opened, report, seed=wanted.seed, layout=layout)
    report.seconds = time.perf_counter() - started
    return tables, report


def open_sources(section: DataSection) -> dict[str, list[Source]]:
    """Find the files of every source."""
    return {
        "train": [open_source(source) for source in section.train],
        "eval": [open_source(source) for source in section.eval],
    }


def _collect(
    tools: Tools,
    sections: Sequence[SourceSection],
    opened: Sequence[Source],
    split: str,
    report: DataReport,
    folder: Path | None,
) -> Samples:
    """All samples of a split's sources."""
    builder = Builder(tools.kind, folder, split)
    with closing(builder):
        for number, (section, source) in enumerate(zip(sections, opened, strict=True)):
            account = SourceReport(section.path, split, weight=section.weight, fingerprint=source.fingerprint)
            report.sources.append(account)
            SourceRun(tools, section, source, number, builder, account).run()
        return builder.build()


def _tables(
    section: DataSection,
    samples: dict[str, Samples],
    opened: dict[str, list[Source]],
    report: DataReport,
    *,
    seed: int,
    layout: Layout,
) -> dict[str, Table]:
    """The data set of each split."""
    whole = np.arange(len(samples["train"]))
    kept: dict[str, tuple[str, Longs]] = {"train": ("train", whole)}
    if "eval" in samples:
        kept["eval"] = ("eval", np.arange(len(samples["eval"])))
    elif section.eval_fraction:
        own = samples["train"]
        training, evaluation = mixing.split_off(own.rows, own.sources, section.eval_fraction, seed)
        kept = {"train": ("train", training), "eval": ("train", evaluation)}
        if not len(training) or not len(evaluation):
            rows = len(np.unique(own.rows))
            text = f"data.eval_fraction: {section.eval_fraction:g} of {rows} row{'s' * (rows > 1)} leaves none for "
            hint = "add rows, name data.eval, or remove data.eval_fraction"
            raise DataError(text + ("evaluation" if len(training) else "training"), hint=hint)
    sides = [(samples[origin], positions, opened[origin]) for origin, positions in kept.values()]
    if len(sides) > 1 and (double := doubles.warning(*sides)):
        report.warnings.append(double)
    tables = {}
    for split, (origin, positions) in kept.items():
        weights = [source.weight for source in (section.train if origin == "train" else section.eval)]
        if split != origin:
            # Evaluation rows that are set aside count once: a weight is about training.
            weights = [1.0] * len(weights)
        order = mixing.weighted(positions, samples[origin].sources, weights, seed)
        tables[split] = _table(
            section, samples[origin], opened[origin], positions, order, split=split, seed=seed, layout=layout
        )
    report.train = tables["train"].report
    report.eval = tables["eval"].report if "eval" in tables else None
    return tables


def _table(
    section: DataSection,
    samples: Samples,
    opened: Sequence[Source],
    positions: Longs,
    order: Longs,
    *,
    split: str,
    seed: int,
    layout: Layout,
) -> Table:
    """Order, pack, gather and count one split. Row ids number the samples of the split, in the order of the sources."""
    shuffle = section.shuffle and split == "train"
    order = mixing.shuffled(order, seed) if shuffle else order
    numbers = np.full(len(samples), -1, dtype=np.int32)
    numbers[positions] = np.arange(len(positions))
    origins = _origins(samples, opened, positions)
    counts = _counts(samples, order, layout)
    rows = Packs.single(order)
    if section.join:
        samples, documents, rows = joined(samples, order, section.max_length)
        numbers = numbers[documents]
        rows = mixing.shuffled_packs(rows, seed) if shuffle else rows
        counts.rows = counts.samples = len(rows)
        counts.longest = min(section.max_length, counts.tokens)
        counts.trained_tokens -= int(np.count_nonzero(samples.labels[samples.starts[rows.members[rows.edges[:-1]]]] != IGNORED))
    elif layout.packing:
        lengths = samples.lengths[order]
        packs = pack(lengths, section.max_length)
        packs = mixing.shuffled_packs(packs, seed) if shuffle else mixing.sorted_packs(packs)
        rows = Packs(order[packs.members], packs.edges)
        counts.rows = counts.packs = len(packs)
        counts.efficiency = efficiency(lengths, len(packs), section.max_length)
    return Table(record_batches(samples, rows, numbers, layout), layout.schema, counts, origins)


def _counts(samples: Samples, order: Longs, layout: Layout) -> SplitReport:
    """What these samples are, each in a row of its own."""
    rows = len(order)
    documents = int(np.count_nonzero(np.bincount(samples.rows[order])))
    longest = int(layout.kind.widths(samples)[order].max())
    return SplitReport(rows, rows, documents, int(samples.lengths[order].sum()), int(samples.trained[order].sum()), longest)


def _origins(samples: Samples, opened: Sequence[Source], positions: Longs) -> Origins:
    """Places of the samples, with the files of all sources in one list."""
    names = [name for source in opened for name in source.files]
    starts = np.cumsum([0, *(len(source.files) for source in opened)])[samples.sources[positions]]
    return Origins(names, (starts + samples.files[positions]).astype(np.int32), samples.lines[positions])

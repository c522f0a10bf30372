"""Reads one file of rows, and knows the line of every row. Compression is undone on the way, and another encoding than UTF-8.

A reader yields `(line, row)`, where `row` is a mapping, or the text of what is wrong with that line.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from longline.data import json_rows, tables
from longline.data.decoding import BLOCK, NOT_UTF8, as_utf8, behind, seekable
from longline.errors import DataError

Record = tuple[int, Mapping[str, Any] | str]

ARROW_MAGIC = b"ARROW1"
BATCH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source says that its files are to be read, None where that is to be seen in them; `tell` is told what was seen."""

    name: str
    encoding: str | None = None
    delimiter: str | None = None
    field: str | None = None
    document: Literal["line", "file"] = "line"
    tell: Callable[[str], None] = lambda seen: None


HEAD = 64
"""Bytes by which it is seen what a file is."""
_PAGE = "fetch the file itself: the address leads to a page about it, or to an error"
DISGUISED: dict[bytes, tuple[str, str, tuple[str, ...]]] = {
    b"version https://git-lfs": ("a pointer of Git LFS, and the rows are elsewhere", "fetch them with `git lfs pull`", ()),
    b"<!doctype html": ("a web page", _PAGE, ()),
    b"<html": ("a web page", _PAGE, ()),
    b"\x1f\x8b": ("compressed by gzip", "let its name end with .gz", ()),
    b"BZh91AY&SY": ("compressed by bzip2", "let its name end with .bz2", ()),
    b"\xfd7zXZ\x00": ("compressed by xz", "let its name end with .xz", ()),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "let its name end with .zst", ()),
    b"PK\x03\x04": ("a zip archive, as tables of Excel are too", "unpack it, or save the table as .csv", ()),
    b"PAR1": ("Parquet", "let its name end with .parquet", (".parquet",)),
    b"ARROW1": ("Arrow", "let its name end with .arrow", (".arrow", ".ipc", ".feather")),
    b"SQLite format 3": ("a database of SQLite", "write its rows into a .jsonl or .csv file", ()),
}
"""First bytes of files that are called otherwise than they are: what each is, what to do, and the endings that fit it."""


def _zstd(path: Path) -> IO[bytes]:
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd"))


COMPRESSED: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile, ".zst": _zstd}
"""How a compressed file is opened for reading bytes."""


def kind_of(name: str) -> tuple[str, str] | None:
    """The reader's suffix and the compression's suffix (or "") of a file name; None when no reader fits."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return (suffixes[-1], compression) if suffixes and suffixes[-1] in READERS else None


def read_file(path: Path, how: Reading) -> Iterator[Record]:
    """The rows of `path`; the name decides how it is read and is what messages call it. Raises DataError."""
    name, kind = how.name, kind_of(how.name)
    if kind is None:
        raise DataError(f"{name}: can't tell what kind of file this is", hint=f"known endings: {' '.join(READERS)}")
    try:
        with _opened(path, kind[1]) as stream:
            _refuse_disguised(stream.peek(HEAD)[:HEAD], *kind, name)  # type: ignore[attr-defined]
            if kind[0] in TEXTS:
                stream, seen = as_utf8(stream, how.encoding, name)
                how.tell(seen)
            yield from READERS[kind[0]](stream, how)
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise DataError(f"{name}: can't be read: {error}") from error


def is_padded(name: str) -> bool:
    """Whether rows of this kind of file have null for keys that a mapping lacks."""
    kind = kind_of(name)
    return kind is not None and kind[0] in (".parquet", ".arrow", ".ipc", ".feather")


@contextmanager
def _opened(path: Path, compression: str) -> Iterator[IO[bytes]]:
    with COMPRESSED[compression](path) if compression else path.open("rb") as stream:
        yield stream


def _refuse_disguised(head: bytes, suffix: str, compression: str, name: str) -> None:
    """Refuse a file whose first bytes are those of another kind than its name says: what it is tells what to do."""
    for magic, (what, hint, endings) in DISGUISED.items():
        own = suffix in endings or (not compression and suffix in (".txt", ".text") and magic.startswith(b"<"))
        if head.lower().startswith(magic.lower()) and not own:
            raise DataError(f"{name}: it is {what}, by its first bytes", hint=hint)


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, str | None]]:
    """Lines that are not blank, None for one that isn't UTF-8; only a line feed ends a line."""
    # JSON may hold U+2028 and its like as they are, at which str.splitlines would cut a row in two.
    for number, raw in enumerate(stream, start=1):
        if not raw.strip():
            continue
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError:
            yield number, None


def _read_jsonl(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    """Rows one a line; or, if the first line opens a list or an object that goes on, what a .json file may hold."""
    head = stream.read(BLOCK)
    stream = behind(head, stream)
    if how.field is not None or json_rows.is_spread(head):
        return json_rows.read_values(stream, how.name, how.field, how.tell)
    return json_rows.read_lines(_lines(stream))


def _read_json(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    """Values of any shape; JSON Lines are often called .json."""
    head = stream.read(BLOCK)
    stream = behind(head, stream)
    if how.field is None and json_rows.is_lines(head):
        return json_rows.read_lines(_lines(stream))
    return json_rows.read_values(stream, how.name, how.field, how.tell)


def _read_yaml(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    from longline.data import yaml_rows

    return yaml_rows.read_yaml(stream, how.name, how.field, how.tell)


def _read_csv(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    return tables.read_table(stream, how.name, how.delimiter, how.tell)


def _read_tsv(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    return tables.read_table(stream, how.name, how.delimiter or "\t", how.tell)


def _read_text(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    how.tell(f"a {how.document} is a document")
    if how.document == "file":
        try:
            yield 1, {"text": stream.read().decode("utf-8")}
        except UnicodeDecodeError:
            yield 1, NOT_UTF8
        return
    for number, line in _lines(stream):
        yield number, NOT_UTF8 if line is None else {"text": line.rstrip("\r\n")}


def _read_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    """Rows of Arrow batches; the 'line' is the number of the row, from 1."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _read_parquet(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    stream = seekable(stream)
    _refuse_joined(stream, b"PAR1PAR1", how.name)
    # Without a buffer the columns of a row group are read whole, and many files have one group.
    file = pq.ParquetFile(stream, buffer_size=BLOCK, pre_buffer=False)
    # Asked for all groups at once, pyarrow holds what it has read of each until the end: 0.9 kB a row of 480 float16 numbers.
    groups = (file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]) for group in range(file.num_row_groups))
    return _read_batches(batch for group in groups for batch in group)


def _read_arrow(stream: IO[bytes], how: Reading) -> Iterator[Record]:
    """Arrow's file format and its stream format, which `datasets` writes; both may be named .arrow."""
    stream = seekable(stream)
    magic = stream.read(len(ARROW_MAGIC))
    stream.seek(0)
    if magic == ARROW_MAGIC:
        _refuse_joined(stream, 2 * ARROW_MAGIC, how.name)
        reader = pa.ipc.open_file(stream)
        batches: Iterator[Any] = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        batches = _whole_stream(stream, how.name)
    return _read_batches(part for batch in batches for part in _slices(batch))


def _refuse_joined(stream: IO[bytes], border: bytes, name: str) -> None:
    """Refuse a file that is two, one behind the other: read from the end, as these formats are, it would lose the first."""
    kept = b""
    while block := stream.read(BLOCK):
        if border in kept + block:
            raise DataError(f"{name}: can't be read: it is several files, one behind the other", hint="keep them apart")
        kept = block[1 - len(border) :]
    stream.seek(0)


def _whole_stream(stream: IO[bytes], name: str) -> Iterator[pa.RecordBatch]:
    """The batches of a stream, behind whose end nothing may stand."""
    yield from pa.ipc.open_stream(stream)
    if stream.read(1):
        raise DataError(
            f"{name}: can't be read: it goes on behind the end of its Arrow stream", hint="keep one stream in a file"
        )


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


READERS: dict[str, Callable[[IO[bytes], Reading], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".ipc": _read_arrow,
    ".feather": _read_arrow,
    ".txt": _read_text,
    ".text": _read_text,
}
"""A reader for each ending of a file name, with or without a compression's ending behind it."""
YAML = {".yaml", ".yml"}
TEXTS = READERS.keys() - {".parquet", ".arrow", ".ipc", ".feather"}
"""The endings of files that are text, in some encoding."""
APPLY = {
    "encoding": TEXTS,
    "delimiter": {".csv", ".tsv"},
    "field": {".json", ".jsonl", ".ndjson", *YAML},
    "document": {".txt", ".text"},
}
"""To which files the options of a source apply."""

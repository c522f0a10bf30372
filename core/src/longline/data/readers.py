"""Reads one file of rows, and knows the line of every row. Compression is undone on the way.

A reader yields `(line, row)`, where `row` is a mapping, or the text of what is wrong with that line.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from longline.errors import DataError

Record = tuple[int, Mapping[str, Any] | str]

ARROW_MAGIC = b"ARROW1"
_BLANK = re.compile(r"[ \t\r\n]*")
BATCH_ROWS = 1000
BLOCK = 1 << 20
# The csv module refuses fields above 128 KiB unless it is told otherwise; a conversation in one may be longer.
csv.field_size_limit(2**31 - 1)


def _zstd(path: Path) -> IO[bytes]:
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd"))


COMPRESSED: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile, ".zst": _zstd}
"""How a compressed file is opened for reading bytes."""


def kind_of(name: str) -> tuple[str, str] | None:
    """The reader's suffix and the compression's suffix (or "") of a file name; None when no reader fits."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return (suffixes[-1], compression) if suffixes and suffixes[-1] in READERS else None


def read_file(path: Path, name: str) -> Iterator[Record]:
    """The rows of `path`; `name` decides how it is read and is what messages call it. Raises DataError."""
    kind = kind_of(name)
    if kind is None:
        raise DataError(f"{name}: can't tell what kind of file this is", hint=f"known endings: {' '.join(READERS)}")
    try:
        with _opened(path, kind[1]) as stream:
            yield from READERS[kind[0]](stream, name)
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


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, str | None]]:
    """Lines that are not blank, None for one that isn't UTF-8; only a line feed ends a line."""
    # JSON may hold U+2028 and its like as they are, at which str.splitlines would cut a row in two.
    for number, raw in enumerate(stream, start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip():
            continue
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError:
            yield number, None


def _checked(value: Any) -> Mapping[str, Any] | str:
    """A parsed row, which must be a mapping."""
    return value if isinstance(value, dict) else f"the row is a {type(value).__name__}, not a mapping"


def _read_jsonl(stream: IO[bytes], name: str) -> Iterator[Record]:
    for number, line in _lines(stream):
        if line is None:
            yield number, "not valid UTF-8"
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield number, f"invalid JSON: {error.msg if isinstance(error, json.JSONDecodeError) else error}" + _column(error)
        except RecursionError:
            yield number, "invalid JSON: nested too deeply"
        else:
            yield number, _checked(value)


def _column(error: ValueError) -> str:
    return f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""


def _read_json(stream: IO[bytes], name: str) -> Iterator[Record]:
    """One array of rows, rows one after another over any number of lines, or rows one a line."""
    raw = stream.read().removeprefix(b"\xef\xbb\xbf")
    # JSON Lines are often called .json: then the first line alone is a whole value.
    first = raw.lstrip().partition(b"\n")[0]
    if not raw.lstrip().startswith(b"["):
        try:
            json.loads(first)
        except ValueError:
            pass
        else:
            yield from _read_jsonl(io.BytesIO(raw), name)
            return
    try:
        yield from _values(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        yield raw.count(b"\n", 0, error.start) + 1, "not valid UTF-8"


def _values(text: str) -> Iterator[Record]:
    """The rows of arrays, or rows one after another, to the end of the text; what comes behind a mistake can't be read."""
    decoder = json.JSONDecoder()
    position, line, counted = 0, 1, 0
    inside, wanted = False, "value"  # in an array: what must come next, a value, what follows one, or either at its start
    while True:
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            if inside:
                yield line, "invalid JSON: the array is not closed"
            return
        line, counted = line + text.count("\n", counted, position), position
        mark = text[position]
        if not inside and mark == "[":
            inside, wanted, position = True, "either", position + 1
        elif inside and mark == "]" and wanted != "value":
            inside, wanted, position = False, "value", position + 1
        elif inside and wanted == "following":
            if mark != ",":
                yield line, f"invalid JSON: expected a comma or the end of the array, got {text[position : position + 20]!r}"
                return
            wanted, position = "value", position + 1
        else:
            try:
                value, position = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                yield _mistake(error, line)
                return
            wanted = "following" if inside else "value"
            yield line, _checked(value)


def _mistake(error: ValueError | RecursionError, line: int) -> Record:
    if isinstance(error, json.JSONDecodeError):
        return error.lineno, f"invalid JSON: {error.msg}{_column(error)}"
    return line, f"invalid JSON: {error}"


def _read_csv(stream: IO[bytes], name: str, delimiter: str = ",") -> Iterator[Record]:
    reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except (csv.Error, UnicodeDecodeError) as error:
            yield line, f"invalid CSV: {error}"
            return
        start, line = line, reader.line_num + 1
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = fields
            if len(set(header)) != len(header):
                raise DataError(f"{name}:1: two columns have the same name: {', '.join(header)}")
        elif len(fields) != len(header):
            yield start, f"{len(fields)} fields, but the header names {len(header)}"
        else:
            yield start, dict(zip(header, fields, strict=True))


def _read_tsv(stream: IO[bytes], name: str) -> Iterator[Record]:
    return _read_csv(stream, name, "\t")


def _read_text(stream: IO[bytes], name: str) -> Iterator[Record]:
    for number, line in _lines(stream):
        yield number, "not valid UTF-8" if line is None else {"text": line.rstrip("\r\n")}


def _read_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    """Rows of Arrow batches; the 'line' is the number of the row, from 1."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _read_parquet(stream: IO[bytes], name: str) -> Iterator[Record]:
    stream = _seekable(stream)
    _refuse_joined(stream, b"PAR1PAR1", name)
    file = pq.ParquetFile(stream)
    # Asked for all groups at once, pyarrow holds what it has read of each until the end: 0.9 kB a row of 480 float16 numbers.
    groups = (file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]) for group in range(file.num_row_groups))
    return _read_batches(batch for group in groups for batch in group)


def _read_arrow(stream: IO[bytes], name: str) -> Iterator[Record]:
    """Arrow's file format and its stream format, which `datasets` writes; both may be named .arrow."""
    stream = _seekable(stream)
    magic = stream.read(len(ARROW_MAGIC))
    stream.seek(0)
    if magic == ARROW_MAGIC:
        _refuse_joined(stream, 2 * ARROW_MAGIC, name)
        reader = pa.ipc.open_file(stream)
        batches: Iterator[Any] = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        batches = _whole_stream(stream, name)
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


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    """A stream that can go back: the file itself, or what was decompressed, in memory."""
    return stream if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO) else io.BytesIO(stream.read())


READERS: dict[str, Callable[[IO[bytes], str], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
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

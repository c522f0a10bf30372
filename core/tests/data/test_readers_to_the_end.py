"""Every reader reads to the end of its file, or says where it stopped: with bytes appended, cut off, and doubled."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longline.data.readers import READERS, Reading, kind_of, read_file
from longline.errors import DataError

ROWS = [{"text": f"row {number}"} for number in range(5)]
TABLE = pa.Table.from_pylist(ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TEXTS = "".join(row["text"] + "\n" for row in ROWS).encode()


def arrow(new) -> bytes:
    sink = io.BytesIO()
    with new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


FILES = {
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "array.json": json.dumps(ROWS).encode(),
    "lines.json": LINES,
    "a.yaml": json.dumps(ROWS, indent=1).encode(),
    "a.yml": "".join(f"- text: {row['text']}\n" for row in ROWS).encode(),
    "held.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "spread.jsonl": json.dumps(ROWS, indent=1).encode(),
    "spread.json": json.dumps(ROWS, indent=1).encode(),
    "a.csv": b"text\n" + TEXTS,
    "a.tsv": b"text\n" + TEXTS,
    "a.txt": TEXTS,
    "a.text": TEXTS,
    "a.parquet": parquet(),
    "file.arrow": arrow(pa.ipc.new_file),
    "file.ipc": arrow(pa.ipc.new_file),
    "file.feather": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.jsonl.zst": zstandard.ZstdCompressor().compress(LINES),
    "a.parquet.gz": gzip.compress(parquet()),
}
PLAIN = {".csv", ".tsv", ".txt", ".text"}
"""In these any line is a row."""


def read(folder: Path, name: str, content: bytes) -> tuple[list[dict], list[str]]:
    """The rows of a file, and what was said of it."""
    path = folder / name
    path.write_bytes(content)
    rows, faults = [], []
    try:
        for _, row in read_file(path, Reading(name)):
            (faults if isinstance(row, str) else rows).append(row)
    except DataError as error:
        faults.append(str(error))
    return rows, faults


def test_every_reader_is_here():
    assert {kind_of(name)[0] for name in FILES} == set(READERS)


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file(tmp_path, name):
    assert read(tmp_path, name, FILES[name]) == (ROWS, [])


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut(tmp_path, name):
    rows, faults = read(tmp_path, name, FILES[name][: len(FILES[name]) * 2 // 3])
    assert faults or kind_of(name)[0] in PLAIN
    assert rows == ROWS[: len(rows)] or kind_of(name)[0] in PLAIN


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_something_behind_it(tmp_path, name):
    """Behind a compressed stream bz2 and xz leave out what is none, by their own documentation; all rows are there."""
    rows, faults = read(tmp_path, name, FILES[name] + b"xyz")
    assert faults or kind_of(name)[0] in PLAIN or (name.endswith((".bz2", ".xz")) and rows == ROWS)


@pytest.mark.parametrize("name", FILES)
def test_a_file_twice(tmp_path, name):
    rows, faults = read(tmp_path, name, 2 * FILES[name])
    header = [{"text": "text"}] if kind_of(name)[0] in (".csv", ".tsv") else []
    assert faults or rows == [*ROWS, *header, *ROWS]


@pytest.mark.parametrize(
    ("text", "count", "fault"),
    [
        ('[{"a": 1} {"a": 2}]', 1, "line 1: invalid JSON: expected a comma or the end of the array, got '{\"a\": 2}]'"),
        ('[{"a": 1},\n{"a": 2}\n{"a": 3}]', 2, "line 3: invalid JSON: expected a comma"),
        ('[{"a": 1},]', 1, "line 1: invalid JSON: Expecting value"),
        ('[,{"a": 1}]', 0, "line 1: invalid JSON: Expecting value"),
        ('[{"a": 1}]]', 1, "line 1: invalid JSON: Expecting value"),
        ('[{"a": 1}', 1, "line 1: invalid JSON: the array is not closed"),
        ('[{"a": 1}]\n[{"a": 2}, {"a": 3}]', 3, None),
        ("[]", 0, None),
        ('{"a":\n1}\n{"a": 2}', 2, None),
    ],
)
def test_arrays_of_rows(tmp_path, text, count, fault):
    path = tmp_path / "rows.json"
    path.write_text(text)
    found = list(read_file(path, Reading("rows.json")))
    rows, faults = (
        [row for _, row in found if isinstance(row, dict)],
        [f"line {line}: {row}" for line, row in found if isinstance(row, str)],
    )
    assert len(rows) == count
    assert [told.startswith(fault) for told in faults] == ([True] if fault else [])

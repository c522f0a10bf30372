"""Every kind of file gives the same rows, with the line each came from."""

import bz2
import csv
import gzip
import json
import lzma
import os
import subprocess
import sys

import fsspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from longline.config.sections import SourceSection
from longline.data.sources import open_source, shown
from longline.errors import DataError

ROWS = [{"text": "one"}, {"text": 'two, "quoted"'}, {"text": "trois é 😀"}]


def read(path, **options):
    """[(file:line, row)] of a source."""
    source = open_source(SourceSection(path=str(path), **options))
    return [(f"{source.files[place.file]}:{place.line}", row) for place, row in source.rows()]


def as_jsonl():
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write_csv(path):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_ipc(path, opener):
    table = pa.Table.from_pylist(ROWS)
    with opener(str(path), table.schema) as writer:
        writer.write_table(table)


def zipped(path, writer):
    writer(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


WRITERS = {
    "a.jsonl": lambda path: path.write_bytes(as_jsonl()),
    "a.ndjson": lambda path: path.write_bytes(b"\xef\xbb\xbf" + as_jsonl().replace(b"\n", b"\r\n")),
    "a.json": lambda path: path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8"),
    "lines.json": lambda path: path.write_bytes(as_jsonl()),
    "pretty.json": lambda path: path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS), encoding="utf-8"),
    "a.csv": write_csv,
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "a.arrow": lambda path: write_ipc(path, pa.ipc.new_file),
    "stream.arrow": lambda path: write_ipc(path, pa.ipc.new_stream),
    "a.feather": lambda path: pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), path),
    "a.txt": lambda path: path.write_text("".join(row["text"] + "\n" for row in ROWS), encoding="utf-8"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_jsonl())),
    "a.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(as_jsonl())),
    "a.jsonl.xz": lambda path: path.write_bytes(lzma.compress(as_jsonl())),
    "a.jsonl.zst": lambda path: path.write_bytes(pa.compress(as_jsonl(), "zstd", asbytes=True)),
    "a.csv.gz": lambda path: (
        write_csv(path.with_suffix("")),
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes())),
    ),
    "a.parquet.gz": lambda path: (
        pq.write_table(pa.Table.from_pylist(ROWS), path.with_suffix("")),
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes())),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert [row for _, row in read(tmp_path / name)] == ROWS


@pytest.mark.parametrize(
    ("name", "lines"), [("a.jsonl", [1, 2, 3]), ("a.csv", [2, 3, 4]), ("a.json", [2, 5, 8]), ("pretty.json", [1, 4, 7])]
)
def test_lines_are_those_of_an_editor(tmp_path, name, lines):
    WRITERS[name](tmp_path / name)
    assert [where for where, _ in read(tmp_path / name)] == [f"{tmp_path / name}:{line}" for line in lines]


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "a"}\n\n  \n{"text": "b\u2028c"}', encoding="utf-8")
    assert read(path) == [(f"{path}:2", {"text": "a"}), (f"{path}:5", {"text": "b\u2028c"})]


def test_csv_fields_over_several_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"a\nb",1\nc,2\nd\n', encoding="utf-8")
    assert read(path) == [
        (f"{path}:2", {"text": "a\nb", "n": "1"}),
        (f"{path}:4", {"text": "c", "n": "2"}),
        (f"{path}:5", "1 fields, but the header names 2"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n{"text": "b"}\n', 2, "invalid JSON: Expecting value at column 1"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', 2, "not valid UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', 2, "the row is a list, not a mapping"),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", 2, "invalid JSON: nested too deeply"),
        ("a.json", b'[{"text": "a"},\n {"text": }]', 2, "invalid JSON: Expecting value at column 11"),
        ("a.json", b'[{"text": "a"},\n3]', 2, "the row is a int, not a mapping"),
        ("a.json", b'[{"text": "a"}\n', 1, "invalid JSON: the array is not closed"),
        ("a.csv", b'text\n"a\n', 2, "invalid CSV: unexpected end of data"),
        ("a.txt", b"a\n\xff\n", 2, "not valid UTF-8"),
    ],
)
def test_broken_lines_are_named(tmp_path, name, content, line, reason):
    (tmp_path / name).write_bytes(content)
    found = [(where, row) for where, row in read(tmp_path / name) if isinstance(row, str)]
    assert len(found) == 1
    where, said = found[0]
    assert said.replace("column 10", "column 1").startswith(reason) or said.startswith(reason)
    assert where == f"{tmp_path / name}:{line}"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz", "a.jsonl.bz2", "a.jsonl.zst", "a.parquet", "a.arrow"])
def test_a_damaged_file_is_a_clear_error(tmp_path, name):
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name}: can't be read"):
        read(tmp_path / name)


def test_folder_and_glob_take_data_files_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl.gz", "readme.md", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = json.dumps({"text": name}).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [row["text"] for _, row in read(tmp_path)] == ["a.jsonl", "b.jsonl", "deep/c.jsonl.gz"]
    assert [row["text"] for _, row in read(tmp_path / "*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [row["text"] for _, row in read(tmp_path / "**/*.gz")] == ["deep/c.jsonl.gz"]


def test_folder_of_datasets(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert [row for _, row in read(tmp_path / "one")] == ROWS
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "both")
    assert [row for _, row in read(tmp_path / "both", split="test")] == ROWS[:1]
    with pytest.raises(DataError, match="no split 'dev'; there are: train, test"):
        read(tmp_path / "both", split="dev")


def test_fsspec_urls(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/longline-test/a.jsonl", as_jsonl())
    memory.pipe("/longline-test/b.csv.gz", gzip.compress(b"text\nfour\n"))
    memory.pipe("/longline-test/notes.md", b"no data")
    assert [row for _, row in read("memory://longline-test/a.jsonl")] == ROWS
    assert [row["text"] for _, row in read("memory://longline-test/*")][-1] == "four"
    found = read("memory://longline-test")
    assert found[-1] == ("memory://longline-test/b.csv.gz:2", {"text": "four"})
    WRITERS["a.parquet"](tmp_path / "a.parquet")
    assert [row for _, row in read(f"file://{tmp_path}/a.parquet")] == ROWS
    memory.rm("/longline-test", recursive=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://longline-none/a.jsonl", "no data file fits"),
        ("nosuchprotocol://bucket/a.jsonl", "can't be read: ValueError: Protocol not known"),
        ("rows.jsonl", r"rows.jsonl: no such file or folder \(near it: row.jsonl\)"),
        ("missing/rows.jsonl", "the folder missing does not exist"),
        ("*.jsonl.none", "no data file fits"),
        ("notes.md", "can't tell what kind of file this is"),
        ("./nothing", "no such file or folder"),
    ],
)
def test_what_is_not_there(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "row.jsonl").write_bytes(as_jsonl())
    (tmp_path / "notes.md").write_text("no data")
    with pytest.raises(DataError, match=message):
        read(path)


def test_an_unreachable_hub_says_so(tmp_path):
    """In a process of its own: huggingface_hub reads the variable when it is imported."""
    script = (
        "from longline.config.sections import SourceSection\n"
        "from longline.data.sources import open_source\n"
        "from longline.errors import DataError\n"
        "try:\n    open_source(SourceSection(path='longline-test/no-such-set'))\n"
        "except DataError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("longline-test/no-such-set (taken for a hub id: there is no such file): ")
    assert "HF_HUB_OFFLINE is set" in done.stdout


def test_secrets_of_a_url_are_not_shown():
    assert shown("s3://key:secret@bucket/a.jsonl?token=x") == "s3://bucket/a.jsonl"
    with pytest.raises(DataError) as caught:
        read("nosuchprotocol://key:hunter2@bucket/a.jsonl")
    assert "hunter2" not in str(caught.value)


def test_fingerprint_is_of_the_content(tmp_path):
    def fingerprint(name, content):
        (tmp_path / name).write_bytes(content)
        return open_source(SourceSection(path=str(tmp_path / name))).fingerprint

    first = fingerprint("a.jsonl", as_jsonl())
    assert fingerprint("b.jsonl", as_jsonl()) == first
    assert fingerprint("a.jsonl", as_jsonl().replace(b"one", b"onf")) != first
    assert fingerprint("a.txt", as_jsonl()) != first


def test_fingerprint_of_a_saved_dataset_is_of_its_files(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    before = open_source(SourceSection(path=str(tmp_path / "saved"))).fingerprint
    [file] = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(b"one", b"onf"))
    assert open_source(SourceSection(path=str(tmp_path / "saved"))).fingerprint != before


def test_preparing_needs_no_torch():
    """Masks and sources are torch-free, so that preview and preprocess start quickly."""
    script = "import sys, longline.data, longline.data.summary; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"


def test_rows_with_differing_fields_stay_as_they_are(tmp_path):
    """Arrow would join both into one type, with nulls where a row lacks a key."""
    rows = [{"a": {"x": 1}}, {"a": "text"}, {"b": [1, "two", None]}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row for _, row in read(path)] == rows

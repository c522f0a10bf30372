"""Files as people have them: encodings, separators, rows inside of objects, YAML; what does not apply is refused by name."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longline.config.sections import SourceSection
from longline.data.readers import Reading, read_file
from longline.data.sources import open_source
from longline.errors import DataError

ROWS = [{"instruction": "Größe; oder,\twas?", "output": "7 — «sieben»\nzwei"}, {"instruction": "b", "output": "c"}]
LATIN = [{"instruction": "Größe", "output": "é"}, {"instruction": "b", "output": "c"}]


def read(path, **options):
    """Rows, faults and notes of a source."""
    source = open_source(SourceSection(path=str(path), **options))
    found = [row for _, row in source.rows()]
    rows = [row for row in found if not isinstance(row, str)]
    return rows, [row for row in found if isinstance(row, str)], list(source.notes)


def table(delimiter, rows=ROWS):
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    return "".join(delimiter.join('"' + value + '"' for value in line) + "\r\n" for line in lines)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TEXTS = {
    "a.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n",
    "a.json": json.dumps(ROWS, indent=1, ensure_ascii=False),
}
TEXTS |= {"a.csv": table(","), "a.yaml": "".join("- " + json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp1252"])
def test_encodings(tmp_path, name, encoding):
    text = TEXTS[name]
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    options = {"encoding": encoding} if encoding == "cp1252" else {}
    for start in {mark, ""}:
        rows, faults, notes = read(written(tmp_path / name, (start + text).encode(encoding)), **options)
        assert (rows, faults) == (ROWS, [])
        assert bool(notes) == (encoding != "utf-8-sig")


@pytest.mark.parametrize("name", TEXTS)
def test_another_encoding_is_refused_with_the_option(tmp_path, name):
    path = written(tmp_path / name, TEXTS[name].encode("cp1252"))
    _, faults, _ = read(path)
    assert "encoding" in faults[0]
    assert read(path, encoding="cp1252")[0] == ROWS
    with pytest.raises(DataError, match=r"can't be read as utf-16.*\n.*encoding"):
        read(written(tmp_path / f"odd{name}", b"abc"), encoding="utf-16")


def test_one_bad_line_of_a_table_does_not_take_the_others(tmp_path):
    path = written(tmp_path / "a.csv", b"text\ngood\nb\xe9d\nfine\n")
    rows, faults, _ = read(path)
    assert rows == [{"text": "good"}, {"text": "fine"}]
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("delimiter", "seen"), [(",", []), (";", ["semicolons between fields"]), ("\t", ["tabs between fields"])]
)
def test_separators_are_seen(tmp_path, delimiter, seen):
    assert read(written(tmp_path / "a.csv", table(delimiter))) == (ROWS, [], seen)


def test_separators_that_are_said(tmp_path):
    assert read(written(tmp_path / "a.csv", table("^")), delimiter="^")[0] == ROWS
    assert read(written(tmp_path / "a.tsv", table(";")), delimiter=";")[0] == ROWS
    # One column whose texts have commas and semicolons stays one column.
    assert read(written(tmp_path / "one.csv", 'text\n"a; b"\n"c, d"\n'))[0] == [{"text": "a; b"}, {"text": "c, d"}]
    with pytest.raises(DataError, match=r"semicolons and bars may stand between fields\n.*delimiter"):
        read(written(tmp_path / "two.csv", "a;b|c\n1;2|3\n"))


HELD = {
    "data.json": json.dumps({"version": "1.1", "data": ROWS, "license": {"a": 1}}),
    "rows.json": json.dumps({"rows": ROWS}, indent=2),
    "by_id.json": json.dumps({f"id-{number}": row for number, row in enumerate(ROWS)}),
    "spread_by_id.json": json.dumps({f"id-{number}": row for number, row in enumerate(ROWS)}, indent=1),
    "list.jsonl": json.dumps(ROWS) + "\n",
    "spread.jsonl": json.dumps(ROWS, indent=2),
    "lists.jsonl": json.dumps(ROWS[:1]) + "\n" + json.dumps(ROWS[1:]) + "\n",
    "object.jsonl": "{\n" + json.dumps({"data": ROWS}, indent=1)[1:],
    "data.yaml": "data:\n- {instruction: b, output: c}\n",
    "by_id.yml": "first: {instruction: b, output: c}\n",
    "documents.yaml": "instruction: b\noutput: c\n---\ninstruction: b\noutput: c\n",
}


@pytest.mark.parametrize("name", HELD)
def test_rows_inside_of_something(tmp_path, name):
    rows, faults, _ = read(written(tmp_path / name, HELD[name]))
    assert not faults
    ids = [row.pop("id", None) for row in rows]
    assert rows == (ROWS if name.endswith(("json", "jsonl")) else ROWS[1:] * (1 + name.startswith("documents")))
    assert ids[0] == ({"by_id.json": "id-0", "spread_by_id.json": "id-0", "by_id.yml": "first"}.get(name))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": {"role": "user", "content": "a"}, "chosen": {"role": "assistant", "content": "b"}},
        {"text": "a", "items": [{"a": 1}]},
        {"a": {"role": "user", "content": "x"}},
        {"text": "a", "meta": {"b": 1}},
        {"turns": [{"speaker": "a", "said": "b"}]},
        {"instruction": "a", "items": ["b"]},
        {"items": ["b"]},
    ],
)
def test_an_object_that_is_a_row(tmp_path, row):
    """Alone in a file, over several lines, and beside others."""
    for number, text in enumerate((json.dumps(row), json.dumps(row, indent=1))):
        assert read(written(tmp_path / f"{number}.json", text))[:2] == ([row], [])
    assert read(written(tmp_path / "two.json", json.dumps(row, indent=1) * 2))[:2] == ([row, row], [])


def test_many_rows_by_id(tmp_path):
    rows = {f"id-{number}": {"text": f"row {number}"} for number in range(300)}
    found, faults, notes = read(written(tmp_path / "a.json", json.dumps(rows)))
    assert [row.pop("id") for row in found] == list(rows)
    assert (found, faults, notes) == (list(rows.values()), [], ["an object of rows by id"])


def test_the_field_that_holds_the_rows(tmp_path):
    for name in ("a.json", "a.jsonl", "a.yaml"):
        path = written(tmp_path / name, json.dumps({"meta": {"a": 1}, "questions": ROWS, "data": [{"x": 1}]}))
        assert read(path, field="questions")[0] == ROWS
        with pytest.raises(DataError, match="there is no list of rows under 'question'"):
            read(path, field="question")
    with pytest.raises(DataError, match="the rows may be those of 'data', or this is a row itself, with text"):
        read(written(tmp_path / "b.json", json.dumps({"data": ROWS, "text": "a"})))
    with pytest.raises(DataError, match=r"b.json:1: more values stand behind the object that holds the rows"):
        read(written(tmp_path / "b.json", json.dumps({"data": ROWS}) + " {}"))


def test_a_text_file_is_lines_or_one_document(tmp_path):
    path = written(tmp_path / "a.txt", "one\n\ntwo\n")
    assert read(path) == ([{"text": "one"}, {"text": "two"}], [], ["a line is a document"])
    assert read(path, document="file") == ([{"text": "one\n\ntwo\n"}], [], ["a file is a document"])


def test_yaml_means_what_it_means_in_a_config(tmp_path):
    text = "- {text: no, date: 2020-01-01, number: 1e-4}\n- text: |\n    a\n    b\n"
    assert read(written(tmp_path / "a.yaml", text))[0] == [
        {"text": "no", "date": "2020-01-01", "number": 1e-4},
        {"text": "a\nb\n"},
    ]
    [(line, _), (second, fault)] = read_file(written(tmp_path / "b.yaml", "- text: a\n---\n- {b: [\n"), Reading("b.yaml"))
    assert (line, second) == (1, 4)
    assert fault.startswith("invalid YAML")
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder / "card.yaml", "a: b\n")
    assert len(open_source(SourceSection(path=str(folder))).files) == 1
    written(folder / "rows.jsonl", TEXTS["a.jsonl"])
    assert read(folder)[0] == ROWS


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("a.parquet", {"encoding": "latin-1"}),
        ("a.jsonl", {"delimiter": ";"}),
        ("a.csv", {"field": "x"}),
        ("a.csv", {"document": "file"}),
    ],
)
def test_options_that_do_not_apply(tmp_path, name, option):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    if not name.endswith("parquet"):
        written(tmp_path / name, TEXTS[name])
    with pytest.raises(DataError, match=f"`{next(iter(option))}` is about .* files, and here are none"):
        read(tmp_path / name, **option)


def peak(path):
    """Megabytes that Python held at most while it went through a file."""
    tracemalloc.start()
    try:
        count = sum(1 for _, row in read_file(path, Reading(path.name)) if not isinstance(row, str))
        return count, tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_json_and_compressed_parquet_are_not_held(tmp_path):
    rows = [{"text": f"{number} " + "word " * 400} for number in range(10_000)]
    names = ("array", "spread", "held", "by_id")
    for name, value in zip(names, (rows, rows, {"data": rows}, {str(at): row for at, row in enumerate(rows)}), strict=True):
        written(tmp_path / f"{name}.json", json.dumps(value, indent=1 if name == "spread" else None))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes(), 1))
    for name in (*(f"{name}.json" for name in names), "a.parquet.gz"):
        count, megabytes = peak(tmp_path / name)
        assert count == len(rows)
        assert megabytes < 12, name  # of 20


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        ("rows.jsonl", b"<!DOCTYPE html><html><body>404</body></html>\n", "a web page"),
        ("rows.csv", gzip.compress(b"prompt,completion\na,b\n"), "let its name end with .gz"),
        ("rows.jsonl.gz", gzip.compress(gzip.compress(b"{}\n")), "compressed by gzip"),
        ("rows.json", b"PAR1\x15\x04", "let its name end with .parquet"),
        ("rows.csv", b"PK\x03\x04\x14\x00", "save the table as .csv"),
    ],
)
def test_a_file_that_is_called_otherwise_than_it_is(tmp_path, name, content, what):
    path = written(tmp_path / name, content)
    with pytest.raises(DataError) as told:
        read(path)
    assert f"{name}: it is " in told.value.message
    assert what in f"{told.value.message} {told.value.hint}"

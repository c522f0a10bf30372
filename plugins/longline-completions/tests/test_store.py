"""The Parquet files: what they hold, who can read them, that none is ever half, and the way back to a checkpoint."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from longline import Table
from longline_completions.store import PENDING, Facts, Rewound, Store, facts, read, tables

FACTS = Facts("run-1", "dpo", "margin", "last", 80)
HARD = [
    "",
    "a\nb\r\n\tc",
    "emoji 👩‍👩‍👧 語 한국어 \u202e",
    "NUL \x00 and ESC \x1b[31m",
    "'; DROP TABLE--,\"",
    "x" * 200_000,
    None,
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "completions")


def table(step: int, rows, columns=("step", "prompt", "margin")) -> Table:
    return Table("completions", tuple(columns), tuple(map(tuple, rows)), step)


def steps(path: Path) -> list[int]:
    return pq.read_table(path)["step"].to_pylist()


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


# --- what a file holds ----------------------------------------------------------------------------------------------------------


def test_types_values_and_facts(store):
    columns = ("step", "prompt", "label", "count", "margin", "mixed", "none")
    rows = [(99, "a", True, 3, 0.5, 1, None), (100, None, None, None, None, 0.25, None)]
    path = store.write(table(100, rows, columns), FACTS)
    assert path == store.folder / "step-000100.parquet"
    found = pq.read_table(path)
    types = [str(field.type) for field in found.schema]
    assert types == ["int64", "string", "bool", "int64", "double", "double", "double"]
    assert [tuple(row.values()) for row in found.to_pylist()] == rows
    told = facts(found.schema.metadata)
    assert told == {"run": "run-1", "method": "dpo", "score": "margin", "sample": "last", "seen": 80}


def test_hard_texts_and_numbers_come_back_as_they_were(store):
    numbers = [0.1, math.inf, -math.inf, 1e-320, None, -0.0, 3.0]
    path = store.write(table(1, [(1, text, value) for text, value in zip(HARD, numbers, strict=True)]), FACTS)
    columns, rows = read(path)
    assert columns == ("step", "prompt", "margin")
    assert [row["prompt"] for row in rows] == HARD
    assert [row["margin"] for row in rows] == numbers
    path = store.write(table(2, [(2, "a", math.nan), (2, "b", None)]), FACTS)
    first, second = read(path)[1]
    assert math.isnan(first["margin"])
    assert second["margin"] is None


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 0.5], "double", [1.0, 0.5]),
        ([True, 2], "int64", [1, 2]),
        ([True, 0.5], "double", [1.0, 0.5]),
        ([1, "one"], "string", ["1", "one"]),
        ([2**63, 1], "double", [float(2**63), 1.0]),
        ([10**400, 1], "double", [math.inf, 1.0]),
        ([-(2**63), 2**63 - 1], "int64", [-(2**63), 2**63 - 1]),
    ],
)
def test_mixed_values_take_the_narrowest_type_that_holds_them(store, values, kind, expected):
    path = store.write(table(1, [(1, "p", value) for value in values]), FACTS)
    found = pq.read_table(path)
    assert str(found.schema.field("margin").type) == kind
    assert found["margin"].to_pylist() == expected


def test_a_column_keeps_its_type_from_table_to_table(store):
    """Otherwise a reader of the whole folder would meet two types in one column."""
    first = store.write(table(1, [(1, "p", 0.5)]), FACTS)
    second = store.write(table(2, [(2, None, 1)]), FACTS)
    assert pq.read_schema(first) == pq.read_schema(second)


# --- who can read them ----------------------------------------------------------------------------------------------------------


def test_pandas_pyarrow_and_datasets_read_the_folder(store):
    import datasets

    store.write(table(100, [(99, HARD[2], 0.5), (100, HARD[3], None)]), FACTS)
    store.write(table(200, [(200, "later", 1.0)]), FACTS)
    store.write_pending(table(210, [(210, "pending", 1.0)]), FACTS)
    frame = pd.read_parquet(store.folder)
    assert frame["step"].tolist() == [99, 100, 200]
    assert frame["prompt"].tolist() == [HARD[2], HARD[3], "later"]
    assert pa.dataset.dataset(store.folder).to_table()["step"].to_pylist() == [99, 100, 200]
    rows = datasets.load_dataset("parquet", data_files=str(store.folder / "*.parquet"), cache_dir=str(store.folder.parent))
    assert rows["train"]["step"] == [99, 100, 200]


def test_columns_that_change_are_read_file_by_file(store):
    store.write(table(1, [(1, "a", 0.5)]), FACTS)
    store.write(table(2, [(2, "b", 1)], ("step", "completion", "advantage")), FACTS)
    frame = pd.concat(map(pd.read_parquet, sorted(store.folder.glob("step-*.parquet"))))
    assert frame["step"].tolist() == [1, 2]
    assert frame["advantage"].tolist()[1] == 1
    assert list(frame) == ["step", "prompt", "margin", "completion", "advantage"]


# --- never half -----------------------------------------------------------------------------------------------------------------


def test_two_tables_of_one_step_are_two_files(store):
    for text in "abc":
        store.write(table(7, [(7, text, 0.5)]), FACTS)
    assert [(step, path.name) for step, path in tables(store.folder)] == [
        (7, "step-000007.parquet"),
        (7, "step-000007.1.parquet"),
        (7, "step-000007.2.parquet"),
    ]


def test_a_disk_that_is_full_leaves_no_half_file(store):
    store.write(table(1, [(1, "a", 0.5)]), FACTS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = table(2, [(2, os.urandom(60_000).hex(), 0.5)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.write(big, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(store) == ["step-000001.parquet"]
    store.write(big, FACTS)
    assert names(store) == ["step-000001.parquet", "step-000002.parquet"]


KILLED = """
import os, sys
from pathlib import Path
from longline import Table
from longline_completions.store import Facts, Store

store = Store(Path(sys.argv[1]))
rows = tuple((1, os.urandom(20_000).hex(), 0.5) for _ in range(100))
print("go", flush=True)
for step in range(1, 10**6):
    store.write(Table("completions", ("step", "prompt", "margin"), rows, step), Facts("r", "dpo", "margin", "last", 1))
"""


def test_a_kill_at_any_moment_leaves_whole_files(store):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(store.folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while len(tables(store.folder)) < 5:
        assert process.poll() is None
    process.kill()
    process.communicate()
    found = tables(store.folder)
    assert all(pq.read_table(path).num_rows == 100 for _, path in found)
    store.rewind(found[-1][0])
    assert names(store) == sorted(path.name for _, path in found), "what it was writing is swept away"


def test_a_reader_sees_no_pending_rows(store):
    store.write_pending(table(50, [(50, "a", 0.5)]), FACTS)
    assert tables(store.folder) == []
    store.write(table(100, [(50, "a", 0.5), (100, "b", 0.5)]), FACTS)
    assert names(store) == ["step-000100.parquet"]


# --- back to a checkpoint ------------------------------------------------------------------------------------------------------


def test_rows_after_the_checkpoint_go_and_rows_before_it_stay(store):
    for last in (100, 200, 300):
        store.write(table(last, [(step, "p", 0.5) for step in range(last - 99, last + 1)]), FACTS)
    rewound = store.rewind(150)
    assert rewound == Rewound((store.folder / "step-000150.parquet",))
    assert names(store) == ["step-000100.parquet", "step-000150.parquet"]
    assert steps(store.folder / "step-000150.parquet") == list(range(101, 151))
    assert facts(pq.read_schema(store.folder / "step-000150.parquet").metadata)["score"] == "margin"


def test_at_a_step_with_a_table_nothing_is_cut(store):
    for last in (100, 200):
        store.write(table(last, [(last, "p", 0.5)]), FACTS)
    content = (store.folder / "step-000100.parquet").read_bytes()
    store.rewind(100)
    assert names(store) == ["step-000100.parquet"]
    assert (store.folder / "step-000100.parquet").read_bytes() == content


def test_a_killed_run_gets_its_pending_rows_back(store):
    store.write(table(100, [(100, "p", 0.5)]), FACTS)
    store.write_pending(table(150, [(149, "p", 0.5), (150, "q", 0.5)]), FACTS)
    rewound = store.rewind(150)
    assert rewound.kept == (store.folder / "step-000150.parquet",)
    assert steps(rewound.kept[0]) == [149, 150]
    assert names(store) == ["step-000100.parquet", "step-000150.parquet"]
    assert store.rewind(150).kept == (), "once"


def test_pending_rows_after_the_checkpoint_are_made_again(store):
    store.write_pending(table(150, [(120, "p", 0.5), (150, "q", 0.5)]), FACTS)
    assert [steps(path) for path in store.rewind(130).kept] == [[120]]
    store.write_pending(table(150, [(150, "q", 0.5)]), FACTS)
    assert store.rewind(149).kept == ()
    assert names(store) == ["step-000130.parquet"]


def test_a_damaged_file_is_named_and_the_others_are_taken_back(store):
    store.write(table(100, [(100, "p", 0.5)]), FACTS)
    (store.folder / "step-000200.parquet").write_bytes(b"PAR1 no")
    (store.folder / PENDING).write_bytes(b"")
    store.write(table(300, [(150, "p", 0.5), (300, "p", 0.5)]), FACTS)
    (store.folder / PENDING).write_bytes(b"")
    rewound = store.rewind(150)
    assert [text.partition(":")[0] for text in rewound.unreadable] == ["step-000200.parquet", PENDING]
    assert names(store) == ["step-000100.parquet", "step-000150.parquet"]


def test_nothing_of_other_names_is_touched(store):
    store.folder.mkdir()
    for name in ("notes.txt", "step-9.csv", "mine.parquet", ".keep"):
        (store.folder / name).write_text("mine")
    store.rewind(0)
    assert len(names(store)) == 4


def test_a_folder_that_is_not_there_is_not_made(store):
    store.rewind(0)
    assert not store.folder.exists()

"""Further columns: kept, cut, packed and padded with their rows and tokens, and refused where they do not fit."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from longline import Column
from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.collate import Collator
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.errors import DataError

COLUMNS = [
    {"name": "teacher", "align": "token", "dtype": "float16", "width": 2, "fill": -1},
    {"name": "weight", "align": "token", "dtype": "float32", "fill": 7},
    {"name": "score", "dtype": "int32"},
    {"name": "vector", "dtype": "float64", "width": 3},
    {"name": "source", "dtype": "text"},
]


def row(number, length):
    """A row whose every value tells the row and the token."""
    return {
        "input_ids": [100 + number] * length,
        "teacher": [[number + at / 16, -at] for at in range(length)],
        "weight": [number + at / 100 for at in range(length)],
        "score": number * 1000,
        "vector": [number, number + 0.25, 0.5],
        "source": f"row {number} ü",
    }


ROWS = [row(number, 3 + number * 5 % 11) for number in range(30)]


def made(rows, jsonl, tokenizer, kind=SAMPLE, packing=None, columns=(), **options):
    options = {"keep": COLUMNS, "max_length": 9, "shuffle": False, **options}
    section = DataSection(train=rows if isinstance(rows, str) else jsonl(rows), **options)
    return prepare(section, tokenizer, kind=kind, packing=packing, seed=1, columns=columns)


def batch_of(data, kind=SAMPLE, packing=None, rows=None, **options):
    return Collator(0, kind, packing, columns=data.columns, **options)(list(data.train) if rows is None else rows)


@pytest.mark.parametrize("cache", [True, False])
def test_columns_are_cut_and_padded_with_their_tokens(jsonl, chatml, cache):
    for _ in range(2):
        data = made(ROWS, jsonl, chatml, cache=cache)
        assert data.train.features["teacher"].feature.feature.dtype == "float16"
        batch = batch_of(data, pad_to_multiple_of=4)
        assert [column.name for column in data.columns] == list(batch["columns"])
        found = batch["columns"]
        assert {name: (part.dtype, part.shape) for name, part in found.items() if name != "source"} == {
            "teacher": (torch.float16, (30, 12, 2)),
            "weight": (torch.float32, (30, 12)),
            "score": (torch.int32, (30,)),
            "vector": (torch.float64, (30, 3)),
        }
        for number, given in enumerate(ROWS):
            length = min(len(given["input_ids"]), 9)
            assert found["teacher"][number].tolist() == given["teacher"][:length] + [[-1, -1]] * (12 - length)
            assert found["weight"][number, length:].tolist() == [7] * (12 - length)
            assert np.allclose(found["weight"][number, :length], given["weight"][:length])
        assert found["score"].tolist() == [given["score"] for given in ROWS]
        assert found["vector"].tolist() == [given["vector"] for given in ROWS]
        assert found["source"] == [given["source"] for given in ROWS]
    assert data.report.cache_hit is cache


@pytest.mark.parametrize("packing", ["rows", "flat"])
def test_packed_columns_lie_as_the_ids_do(jsonl, chatml, packing):
    data = made(ROWS, jsonl, chatml, packing=packing, max_length=32, shuffle=True)
    batch = batch_of(data, packing=packing)
    found, ids, members = batch["columns"], batch["input_ids"], batch["row_ids"]
    assert found["teacher"].shape == (*ids.shape, 2)
    assert found["weight"].shape == ids.shape
    there = ids >= 100
    assert torch.equal(found["weight"][there].int() + 100, ids[there].int())
    assert torch.equal(found["teacher"][there][:, 1], -batch["position_ids"][there].half())
    assert (found["weight"][~there] == 7).all()
    assert torch.equal(found["score"], torch.where(members < 0, 0, members * 1000).int())
    assert found["vector"].shape == (*members.shape, 3)
    assert torch.equal(found["vector"][..., 0], torch.where(members < 0, 0, members).double())
    assert found["source"] == [[f"row {number} ü" for number in row if number >= 0] for row in members.tolist()]


def test_without_columns_a_batch_has_none(jsonl, chatml):
    assert "columns" not in batch_of(made(ROWS, jsonl, chatml, keep=[]))


def test_a_name_learns_what_it_holds(jsonl, chatml):
    data = made(ROWS, jsonl, chatml, keep=list(ROWS[0])[1:])
    assert data.columns == (
        Column("teacher", "token", "float32", 2),
        Column("weight", "token", "float32"),
        Column("score", "row", "int64"),
        Column("vector", "row", "float32", 3),
        Column("source", "row", "text"),
    )
    from longline.data.summary import summary

    assert "kept teacher: float32, 2 wide, one for each token" in summary(data.report)
    assert batch_of(data)["columns"]["teacher"].shape == (30, 9, 2)


def test_float16_of_parquet_stays_float16(jsonl, chatml, tmp_path):
    values = pa.array([np.arange(4, dtype=np.float16), np.arange(3, dtype=np.float16)], type=pa.list_(pa.float16()))
    table = pa.table({"input_ids": [[5, 6, 7, 8], [5, 6, 7]], "logps": values})
    pq.write_table(table, tmp_path / "rows.parquet")
    data = made(str(tmp_path / "rows.parquet"), jsonl, chatml, keep=[{"name": "logps", "align": "token", "dtype": "float16"}])
    assert batch_of(data)["columns"]["logps"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]


def test_what_others_ask_for_joins_what_the_config_keeps(jsonl, chatml):
    asked = Column("score", dtype="int32")
    data = made(ROWS, jsonl, chatml, keep=["score", "source"], columns=[asked])
    assert data.columns == (asked, Column("source", dtype="text"))
    with pytest.raises(
        DataError, match="'score' is asked for twice, as float32, one for each row and as int32, one for each row"
    ):
        made(ROWS, jsonl, chatml, columns=[Column("score")])


@pytest.mark.parametrize("name", ["length", "row_ids", "labels", "input_ids"])
def test_names_of_prepared_data_are_taken(jsonl, chatml, name):
    with pytest.raises(DataError, match=f"'{name}' can't be kept: prepared data has one of this name"):
        made(ROWS, jsonl, chatml, keep=[name])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": None}, "the column 'score' is to be kept and is null"),
        ({"score": ...}, "the column 'score' is to be kept and is missing (found: input_ids, teacher"),
        ({"score": "1"}, "the column 'score' holds something that is no number"),
        ({"score": 1.5}, "the column 'score' holds a value that is no int32"),
        ({"score": 2**40}, "the column 'score' holds a value that is no int32"),
        ({"score": 10**30}, "the column 'score' holds something that is no number"),
        ({"score": True}, "the column 'score' holds a value that is no int32"),
        ({"score": [1]}, "is to hold one number for each row, and here is a list of shape [1]"),
        ({"vector": [1, 2]}, "is to hold 3 numbers for each row, and here is a list of shape [2]"),
        ({"vector": [1, None, 2]}, "the column 'vector' holds something that is no number"),
        ({"weight": [1.0, 2.0]}, "the column 'weight' has 2 values for 4 tokens"),
        ({"weight": 3}, "is to hold one number for each token, and here is one number"),
        ({"weight": []}, "the column 'weight' has 0 values for 4 tokens"),
        ({"weight": {"a": 1}}, "the column 'weight' holds something that is no number"),
        ({"teacher": [[1, 2], [1], [1, 2], [1, 2]]}, "the column 'teacher' is ragged: its lists are not equally long"),
        ({"teacher": [[1, 2, 3]] * 4}, "is to hold 2 numbers for each token, and here is a list of shape [4, 3]"),
        ({"teacher": [[1, 1e6]] * 4}, "the column 'teacher' holds a value that is no float16"),
        ({"source": 5}, "the column 'source' is to hold text, and here is a int"),
        ({"source": "\ud800"}, "the column 'source' holds half of a surrogate pair"),
    ],
)
def test_values_that_cannot_be_kept_are_bad_rows(jsonl, chatml, change, reason):
    wrong = {name: value for name, value in {**row(1, 4), **change}.items() if value is not ...}
    rows = [json.dumps(item) for item in (row(0, 4), wrong, row(2, 4))]
    with pytest.raises(DataError) as caught:
        made(rows, jsonl, chatml)
    assert "rows.jsonl:2: " in str(caught.value)
    assert reason in str(caught.value)
    data = made(rows, jsonl, chatml, on_bad_row="skip")
    assert batch_of(data)["columns"]["score"].tolist() == [0, 2000]
    assert data.report.bad == 1


def test_a_column_that_is_nowhere(jsonl, chatml):
    with pytest.raises(DataError, match=r"the column 'nope' is to be kept and is not there \(found: input_ids, teacher"):
        made(ROWS, jsonl, chatml, keep=["nope"])


def test_another_column_is_another_entry(jsonl, chatml):
    assert not made(ROWS, jsonl, chatml, keep=["score"]).report.cache_hit
    assert not made(ROWS, jsonl, chatml, keep=["source"]).report.cache_hit
    assert not made(ROWS, jsonl, chatml, keep=[], columns=[Column("source", dtype="text")]).report.cache_hit
    assert made(ROWS, jsonl, chatml, keep=["score"]).report.cache_hit


def test_rows_of_other_kinds_have_columns_too(jsonl, chatml):
    pairs = [{"prompt": "a", "chosen": f" b{number}", "rejected": " c", "score": number} for number in range(4)]
    data = made(pairs, jsonl, chatml, PAIR, keep=["score"], max_length=64)
    assert batch_of(data, PAIR)["columns"]["score"].tolist() == [0, 1, 2, 3]
    answers = [{"prompt": "a", "completion": f" b{number}", "label": True, "score": number} for number in range(4)]
    data = made(answers, jsonl, chatml, LABELLED, keep=["score"], max_length=64)
    assert batch_of(data, LABELLED)["columns"]["score"].tolist() == [0, 1, 2, 3]
    data = made([{"prompt": "a", "score": 3}], jsonl, chatml, PROMPT, keep=["score"], max_length=64)
    assert batch_of(data, PROMPT) == [{"prompt": "a", "score": 3, "row_ids": 0}]

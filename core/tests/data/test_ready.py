"""Rows of ready tokens: what is wrong is refused with file and line, padding is no text, what is odd is told."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.sample import SAMPLE
from longline.errors import DataError

GOOD = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}


@pytest.fixture
def data_of(jsonl, template_tokenizer):
    """Prepare rows."""

    def run(*rows, tokenizer=None, **options):
        source = {"path": jsonl(rows), "columns": options.pop("columns", {})}
        section = DataSection(train=[source], shuffle=False, **options)
        return prepare(section, tokenizer or template_tokenizer("chatml"), kind=SAMPLE, seed=0)

    return run


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"labels": [-100, 6, 448, 8]}, "label 3 is 448, which is not in the vocabulary of 344"),
        ({"input_ids": [5, 6, 344, 8]}, "token id 3 is 344, which is not in the vocabulary of 344"),
        ({"input_ids": [5, -1, 7, 8]}, "token id 2 is -1, which is negative"),
        ({"input_ids": [5, 2**70, 7, 8]}, "a token id has more than 64 bits"),
        ({"input_ids": [[5, 6], [7, 8]], "labels": None}, "token id 1 is '[5, 6]', a list"),
        ({"labels": [-100, 6.0, 7.0, 8.0]}, "label 2 is '6.0', a float"),
        ({"labels": [-100, None, 7, 8]}, "label 2 is 'None', a NoneType"),
        ({"labels": [-100, -1, 7, 8]}, "label 2 is -1, where others are -100; -100 masks a token"),
        ({"labels": [-1, -1, 7, 8]}, "label 1 is -1, where others are -100; -100 masks a token"),
        ({"labels": [6, 7, 8, -100]}, "the labels are the next token ids"),
        ({"labels": [-100, 7, 8, 9]}, "the labels are the next token ids"),
        ({"labels": [-100, 5, 6, 7]}, "the labels are the previous token ids"),
        ({"labels": [6, 7, 8]}, "4 token ids, but 3 labels"),
        ({"labels": "all"}, "the field 'labels' must be a list"),
        ({"attention_mask": [1, 1, 1]}, "4 token ids, but 3 items of 'attention_mask'"),
        ({"attention_mask": [1, 0, 1, 1]}, "the field 'attention_mask' hides token 2 between others"),
        ({"attention_mask": [0, 0, 0, 0]}, "the field 'attention_mask' hides every token"),
        ({"attention_mask": [1.0, 1.0, 1.0, 0.0]}, "the field 'attention_mask' must be a list of 0 and 1"),
        ({"attention_mask": [0, 1, 1, 1], "input_ids": [0, 6, 7, 999]}, "token id 4 is 999"),
        ({"position_ids": [0, 1, 0, 1]}, "'position_ids' start again at token 3: give each sample a row"),
        ({"position_ids": [0, 0, 0, 1], "attention_mask": [0, 1, 1, 1]}, "'position_ids' start again at token 3"),
        ({"labels": None, "completion_mask": [0, 0, 1, 1]}, "'completion_mask' says what is learnt, and `labels` are read"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(data_of, row, message):
    with pytest.raises(DataError) as caught:
        data_of(GOOD, {**GOOD, **row})
    assert f"rows.jsonl:2: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "remedy"), [([-100, 6, 448, 8], "model.tokenizer.path"), ([6, 7, 8, -100], "move them back")]
)
def test_rows_that_are_all_wrong_alike_are_told_once_with_what_to_do(data_of, labels, remedy):
    row = {**GOOD, "labels": labels}
    with pytest.raises(DataError, match="none of its 3 rows can be used, all for one reason") as caught:
        data_of(row, row, row)
    assert remedy in caught.value.hint
    assert "columns:" not in caught.value.hint


def test_padding_is_cut_off_by_the_attention_mask(data_of):
    padded = [
        {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0], "weight": [1, 2, 3, 0, 0]},
        {"input_ids": [0, 5, 6, 7, 0], "attention_mask": [False, True, True, True, False], "weight": [0, 1, 2, 3, 0]},
        {"input_ids": [0, 5, 6, 7], "attention_mask": [0, 1, 1, 1], "labels": [0, 5, -100, 7], "weight": [0, 1, 2, 3]},
    ]
    data = data_of(*padded, keep=["weight"])
    assert [row["input_ids"] for row in data.train] == [[5, 6, 7]] * 3
    assert [row["labels"] for row in data.train] == [[-100, 6, 7], [-100, 6, 7], [-100, -100, 7]]
    assert [row["weight"] for row in data.train] == [[1, 2, 3]] * 3
    assert data.report.train.tokens == 9
    renamed = [{("mask" if key == "attention_mask" else key): value for key, value in row.items()} for row in padded]
    assert data_of(*renamed, columns={"attention_mask": "mask"}).report.train.tokens == 9
    cut = data_of(*padded, keep=["weight"], max_length=2)
    assert [(row["input_ids"], row["weight"]) for row in cut.train][:2] == [([5, 6], [1, 2])] * 2


def test_what_is_odd_is_told(data_of, template_tokenizer):
    other = data_of(GOOD, {**GOOD, "labels": [-100, 6, 99, 8]})
    [warning] = other.report.warnings
    assert "in 1 row labels are other tokens than those at their places" in warning
    assert "token 3 is 7, its label 99" in warning
    tokenizer = template_tokenizer("chatml")
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert pad != eos
    padding = "padding is learnt"
    assert padding in data_of({"input_ids": [5, 6, eos, pad]}).report.warnings[0]
    for row in ({"input_ids": [5, 6, eos]}, {"input_ids": [5, pad, pad], "labels": [5, -100, -100]}):
        assert padding not in str(data_of(GOOD, row).report.warnings)
    tokenizer.pad_token = tokenizer.eos_token
    assert not data_of({"input_ids": [5, 6, eos]}, tokenizer=tokenizer).report.warnings
    assert "2 times the id" in data_of({"input_ids": [5, 6, eos, eos, eos]}, tokenizer=tokenizer).report.warnings[0]


def test_positions_and_masks_that_say_nothing_else_are_taken(data_of):
    padded = {"input_ids": [0, 5, 6, 7], "position_ids": [1, 0, 1, 2], "attention_mask": [0, 1, 1, 1]}
    assert data_of(padded, {**GOOD, "completion_mask": [0, 1, 1, 1]}).report.sources[0].kept == 2
    row = {"input_ids": [5, 6, 7], "completion_mask": [0, 0, 1]}
    assert data_of(row, train_on="all").train[0]["labels"] == [-100, 6, 7]


def test_another_negative_number_may_mask_all_rows(data_of):
    row = data_of({**GOOD, "labels": [-1, -1, 7, 8]}, {**GOOD, "labels": [-1, 6, 7, 8]}).train[0]
    assert row["labels"] == [-100, -100, 7, 8]


def test_a_vocabulary_may_have_gaps(data_of):
    words = {f"w{number}": number for number in range(20)} | {"late": 50}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1")
    assert data_of({"input_ids": [5, 6, 50]}, tokenizer=tokenizer).report.train.tokens == 3
    with pytest.raises(DataError, match="token id 2 is 51, which is not in the vocabulary of 51"):
        data_of({"input_ids": [5, 51, 6]}, tokenizer=tokenizer)

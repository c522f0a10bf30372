"""From rows to data sets: lengths, mixing, splits, what is refused, where a sample came from."""

import json
from pathlib import Path

import numpy as np
import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.errors import DataError

LAYOUTS = {
    "padded": {"kind": SAMPLE},
    "rows": {"kind": SAMPLE, "packing": "rows"},
    "flat": {"kind": SAMPLE, "packing": "flat"},
    "pairs": {"kind": PAIR},
    "labelled": {"kind": LABELLED},
    "prompts": {"kind": PROMPT},
}


def run(chatml, seed=0, layout="padded", **options):
    return prepare(DataSection(**{"cache": False, **options}), chatml, **LAYOUTS[layout], seed=seed)


def ids_of(dataset):
    return [tuple(row["input_ids"]) for row in dataset]


@pytest.fixture
def numbered(jsonl, chat):
    """A file of different rows; the answer holds the number."""

    def write(count, name="rows.jsonl", words=3):
        return jsonl([chat(f"{name} {number} " + "four " * (number % words), f"Say {number}") for number in range(count)], name)

    return write


def test_columns_and_types(chatml, numbered):
    data = run(chatml, train=numbered(5), eval=numbered(3, "eval.jsonl"))
    for dataset in (data.train, data.eval):
        types = {
            name: feature.to_dict() if hasattr(feature, "to_dict") else str(feature)
            for name, feature in dataset.features.items()
        }
        assert sorted(types) == ["input_ids", "labels", "length", "row_ids"]
        assert str(dataset.data.schema.field("input_ids").type) == "list<item: int32>"
        assert str(dataset.data.schema.field("labels").type) == "list<item: int32>"
        assert str(dataset.data.schema.field("length").type) == "int32"
        for row in dataset:
            assert len(row["input_ids"]) == len(row["labels"]) == row["length"]
            assert row["labels"][0] == -100
    assert [row["row_ids"] for row in data.eval] == [[0], [1], [2]]
    assert data.report.train.tokens == sum(data.train["length"])
    assert data.report.eval.samples == 3


def test_origin_names_file_and_line(chatml, jsonl, chat):
    first = jsonl([chat("one."), "", chat("two.")], "first.jsonl")
    second = jsonl([chat("three.")], "second.jsonl")
    data = run(chatml, train=[first, second], eval=second, seed=3)
    for row in data.train:
        file, line = data.origin("train", row["row_ids"][0]).rsplit(":", 1)
        answer = json.loads(Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1])["messages"][1]["content"]
        assert answer in chatml.decode(row["input_ids"])
    assert data.origin("eval", 0) == f"{second}:1"
    with pytest.raises(IndexError):
        data.origin("train", 3)
    with pytest.raises(IndexError):
        data.origin("train", -1)


def test_truncated_rows_keep_their_start_and_are_counted(chatml, jsonl, chat):
    path = jsonl([chat("four " * 100), chat("Yes.")])
    whole = run(chatml, train=path, shuffle=False)
    assert whole.report.sources[0].truncated == 0
    cut = run(chatml, train=path, shuffle=False, max_length=40)
    assert cut.train[0]["input_ids"] == whole.train[0]["input_ids"][:40]
    assert cut.train[0]["labels"] == whole.train[0]["labels"][:40]
    assert cut.train[1] == whole.train[1]
    assert (cut.report.sources[0].truncated, cut.report.sources[0].dropped) == (1, 0)


def test_too_long_rows_are_dropped_or_refused(chatml, jsonl, chat):
    path = jsonl([chat("Yes."), chat("four " * 100), chat("No.")])
    dropped = run(chatml, train=path, max_length=40, too_long="drop")
    assert len(dropped.train) == 2
    assert dropped.report.sources[0].dropped == 1
    length = max(run(chatml, train=path).train["length"])
    with pytest.raises(DataError, match=rf"rows.jsonl:2: {length} tokens, the limit is 40"):
        run(chatml, train=path, max_length=40, too_long="error")
    assert len(run(chatml, train=path, max_length=length, too_long="error").train) == 3


def test_a_row_without_trained_tokens_is_left_out_and_counted(chatml, jsonl, chat):
    path = jsonl([chat("Yes."), chat("Yes.", "four " * 60)])
    data = run(chatml, train=path, max_length=40)
    assert len(data.train) == 1
    assert data.report.sources[0].untrained == 1
    assert f"1 rows have nothing to learn and were left out ({path}:2)" in data.report.warnings[0]


def test_nothing_learnt_at_all_is_an_error(chatml, jsonl, chat):
    with pytest.raises(DataError, match=r"nothing of the train data is learnt \(2 rows, 2 untrained, 2 truncated\)"):
        run(chatml, train=jsonl([chat("Yes.", "four " * 60)] * 2), max_length=40)
    row = chat("Yes.")
    row["messages"][1]["train"] = False
    with pytest.raises(DataError, match="nothing of the train data is learnt"):
        run(chatml, train=jsonl([row]))
    with pytest.raises(DataError, match="nothing of the eval data is learnt"):
        run(chatml, train=jsonl([chat("Yes.")], "a.jsonl"), eval=jsonl([row], "b.jsonl"))


def test_an_end_of_turn_that_is_never_learnt_is_an_error(chatml, template_tokenizer, jsonl, chat):
    with pytest.raises(DataError, match="no answer's end-of-turn token is learnt"):
        run(chatml, train=jsonl([chat("four " * 60)] * 2), max_length=40)
    endless = template_tokenizer("chatml")
    endless.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    with pytest.raises(DataError, match="no answer's end-of-turn token is learnt"):
        run(endless, train=jsonl([chat("Yes.")]))


def test_padding_with_the_end_of_turn_token_keeps_it_learnt(chatml, jsonl, chat):
    assert chatml.pad_token == chatml.eos_token == "<|im_end|>"
    [row] = run(chatml, train=jsonl([chat("Yes.")])).train
    assert chatml.eos_token_id in row["labels"]


def test_order_is_fixed_by_the_seed(chatml, numbered):
    path = numbered(50)
    plain = ids_of(run(chatml, train=path, shuffle=False).train)
    once, again, other = (ids_of(run(chatml, train=path, seed=seed).train) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert sorted(once) == sorted(other) == sorted(plain)
    assert [row["row_ids"] for row in run(chatml, train=path, shuffle=False).train] == [[number] for number in range(50)]


def test_limit_takes_the_first_rows(chatml, numbered):
    path = numbered(50)
    data = run(chatml, train=[{"path": path, "limit": 7}], shuffle=False)
    assert ids_of(data.train) == ids_of(run(chatml, train=path, shuffle=False).train)[:7]
    assert data.report.sources[0].rows == 7


@pytest.mark.parametrize(("weight", "expected"), [(2.0, 80), (0.5, 20), (1.5, 60), (0.001, 1), (3.25, 130)])
def test_weights(chatml, numbered, weight, expected):
    first, second = numbered(40, "first.jsonl"), numbered(10, "second.jsonl")
    data = run(chatml, train=[{"path": first, "weight": weight}, second], seed=5)
    counts = np.bincount([row["row_ids"][0] for row in data.train], minlength=50)
    assert counts[:40].sum() == expected
    assert set(counts[:40]) <= {int(weight), int(weight) + 1}
    assert set(counts[40:]) == {1}
    assert data.report.train.samples == expected + 10
    if weight == 0.5:
        other = run(chatml, train=[{"path": first, "weight": weight}, second], seed=6)
        assert np.bincount([row["row_ids"][0] for row in other.train], minlength=50).tolist() != counts.tolist()


def test_eval_fraction_splits_rows_before_weights(chatml, numbered):
    first, second = numbered(40, "first.jsonl"), numbered(20, "second.jsonl")
    options = {"train": [{"path": first, "weight": 3}, second], "eval_fraction": 0.25}
    data = run(chatml, **options)
    trained, evaluated = set(ids_of(data.train)), ids_of(data.eval)
    assert len(evaluated) == len(set(evaluated)) == 15
    assert not trained & set(evaluated)
    assert len(trained) == 45
    assert len(data.train) == 3 * 30 + 15
    places = [data.origin("eval", row["row_ids"][0]) for row in data.eval]
    assert sum(first in place for place in places) == 10
    assert ids_of(run(chatml, **options).eval) == evaluated
    assert ids_of(run(chatml, seed=1, **options).eval) != evaluated


def test_eval_fraction_of_few_rows(chatml, numbered):
    data = run(chatml, train=numbered(3), eval_fraction=0.01)
    assert (len(data.train), len(data.eval)) == (2, 1)
    with pytest.raises(DataError, match=r"data\.eval_fraction: 0\.9 of 1 row leaves none for training"):
        run(chatml, train=numbered(1), eval_fraction=0.9)
    with pytest.raises(DataError, match=r"data\.eval_fraction: 0\.1 of 1 row leaves none for evaluation"):
        run(chatml, train=numbered(1), eval_fraction=0.1)


def test_rows_on_both_sides_are_counted(chatml, numbered, jsonl, chat):
    """Whether they were set aside or are a file of their own; one that differs in one token is none."""
    assert run(chatml, train=numbered(40), eval_fraction=0.5).report.warnings == []
    rows = [chat(f"Answer {number % 10}.", "Which?") for number in range(40)]
    data = run(chatml, train=jsonl(rows, "double.jsonl"), eval_fraction=0.25)
    training = set(ids_of(data.train))
    double = sum(ids in training for ids in ids_of(data.eval))
    assert double
    (warning,) = data.report.warnings
    assert warning.startswith(f"{double} of 10 rows to evaluate on are trained on, too (the first: ")
    apart = run(chatml, train=jsonl(rows[:5], "a.jsonl"), eval=jsonl(rows[4:7], "b.jsonl"))
    (warning,) = apart.report.warnings
    assert warning.startswith("1 of 3 rows to evaluate on are trained on, too (the first: ")
    assert "b.jsonl:1)" in warning


def test_report_survives_json(chatml, numbered):
    from longline.data.report import DataReport

    report = run(chatml, train=numbered(5), eval_fraction=0.4, layout="rows").report
    assert DataReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_tokenizer_is_left_as_it_was(smollm2, numbered):
    smollm2("a b c", truncation=True, max_length=2, padding="max_length")
    before = smollm2.backend_tokenizer.to_str().partition('"added_tokens"')[2]
    assert run(smollm2, train=numbered(5)).train[0]["length"] > 2
    run(smollm2, train=numbered(5))
    assert smollm2.backend_tokenizer.to_str().partition('"added_tokens"')[2] == before
    assert '"trim_offsets":true' in before

"""The buffer: which rows stay, and that neither their number nor their bytes ever pass the limits."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest

from longline_completions.buffer import Buffer
from longline_completions.cells import cut, fit, plain, readable, shorten, weight

SAMPLES = ("last", "first", "worst", "best", "random")


def scored(scores) -> list[dict]:
    return [{"prompt": f"p{index}", "margin": score} for index, score in enumerate(scores)]


def kept(buffer: Buffer) -> list[str]:
    return [row.values[0] for row in buffer.rows()]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [("last", ["p3", "p4", "p5"]), ("first", ["p0", "p1", "p2"]), ("worst", ["p4", "p1", "p0"]), ("best", ["p3", "p5", "p2"])],
)
def test_which_rows_stay_and_their_order(sample, expected):
    buffer = Buffer(3, 2**20, sample)
    for step, row in enumerate(scored([0.1, -1, 2, 5, -3, 3])):
        buffer.add(step, [row], "margin")
    assert kept(buffer) == expected
    assert buffer.seen == 6


@pytest.mark.parametrize("sample", SAMPLES)
def test_fewer_rows_than_the_limit_all_stay(sample):
    buffer = Buffer(10, 2**20, sample)
    buffer.add(1, scored([1, 2, 3]), "margin")
    assert sorted(kept(buffer)) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("sample", ["worst", "best"])
def test_the_sample_is_what_sorting_all_rows_gives(sample):
    scores = [random.Random(7).gauss(0, 1) for _ in range(50)] + [random.Random(8).gauss(0, 1) for _ in range(450)]
    buffer = Buffer(40, 2**20, sample)
    for step, row in enumerate(scored(scores)):
        buffer.add(step, [row], "margin")
    ordered = sorted(scores, reverse=sample == "best")[:40]
    assert [row.values[1] for row in buffer.rows()] == ordered


def test_of_equal_scores_the_newest_stay():
    """Rewards of 0 and 1 are all equal soon; the first rows of a window must not be all that is ever seen."""
    buffer = Buffer(2, 2**20, "best")
    buffer.add(1, scored([1.0] * 5), "margin")
    assert kept(buffer) == ["p3", "p4"]


@pytest.mark.parametrize(("sample", "expected"), [("worst", ["p1", "p3", "p4", "p0"]), ("best", ["p5", "p0", "p4", "p3"])])
def test_scores_that_are_no_numbers(sample, expected):
    """NaN is the worst of all; what has no score is neither bad nor good."""
    buffer = Buffer(4, 2**20, sample)
    buffer.add(1, scored([1, math.nan, None, -math.inf, 0, math.inf]), "margin")
    assert kept(buffer) == expected


def test_a_true_label_a_text_and_a_huge_number_can_be_scores():
    buffer = Buffer(2, 2**20, "best")
    buffer.add(1, scored([False, "high", True, 10**400, np.float32(0.5)]), "margin")
    assert kept(buffer) == ["p3", "p2"]


def test_random_rows_are_evenly_spread_and_repeatable():
    counts = [0] * 20
    for seed in range(600):
        buffer = Buffer(5, 2**20, "random", seed=seed)
        for step, row in enumerate(scored(range(20))):
            buffer.add(step, [row], "margin")
        for row in buffer.rows():
            counts[row.step] += 1
    assert all(100 < count < 200 for count in counts)  # 150 expected, 5 deviations are about 53
    again = Buffer(5, 2**20, "random", seed=599)
    for step, row in enumerate(scored(range(20))):
        again.add(step, [row], "margin")
    assert kept(again) == kept(buffer)


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_limit_is_ever_passed(sample):
    draw = random.Random(3)
    limit = 40_000
    buffer = Buffer(50, limit, sample)
    for step in range(500):
        text = draw.choice("aß語😀") * draw.choice([3, 300, 3000, 30_000])
        buffer.add(step, [{"prompt": text, "margin": draw.gauss(0, 1), f"extra{step % 3}": step}], "margin")
        assert len(buffer) <= 50
        real = sum(sys.getsizeof(row) + weight(row.values) for row in buffer.rows())
        assert real <= buffer.size <= limit
        assert len(buffer) > 0
    buffer.clear()
    assert (len(buffer), buffer.size, buffer.seen, buffer.cut) == (0, 0, 0, 0)


def test_names_of_columns_count_when_they_change():
    buffer = Buffer(10**6, 100_000)
    for step in range(2000):
        buffer.add(step, [{f"column {step} {index}": 1 for index in range(10)}], "margin")
    names = sum(sys.getsizeof(row.names) + sum(map(sys.getsizeof, row.names)) for row in buffer.rows())
    assert names + sum(weight(row.values) for row in buffer.rows()) <= 100_000
    assert len({id(row.names) for row in buffer.rows()}) == len(buffer)


def test_rows_of_one_kind_share_their_names():
    buffer = Buffer(100, 2**20)
    for step in range(20):
        buffer.add(step, scored([1, 2]), "margin")
    assert len({id(row.names) for row in buffer.rows()}) == 1


def test_only_the_wanted_columns_are_held():
    buffer = Buffer(100, 2**20, "worst", columns=("margin", "prompt"))
    buffer.add(1, [{"prompt": "p", "chosen": "x" * 10_000, "margin": 1.0}, {"prompt": "q", "margin": 0.5}], "margin")
    assert [row.values for row in buffer.rows()] == [(0.5, "q"), (1.0, "p")]
    assert buffer.size < 2000


@pytest.mark.parametrize("letter", ["a", "ß", "語", "😀"])
def test_a_row_larger_than_the_limit_is_cut_in_the_middle(letter):
    text = "BEGIN" + letter * 100_000 + "END"
    buffer = Buffer(10, 20_000)
    buffer.add(1, [{"prompt": "short", "chosen": text, "rejected": text[:-3] + "FIN", "margin": 0.25}], "margin")
    (row,) = buffer.rows()
    assert row.values[0] == "short"
    assert row.values[3] == 0.25
    assert row.values[1].startswith("BEGIN" + letter)
    assert row.values[1].endswith(letter + "END")
    assert row.values[2].endswith(letter + "FIN")
    assert " characters cut]... " in row.values[1]
    assert 10_000 < buffer.size <= 20_000
    assert (buffer.cut, buffer.lost) == (1, 0)


def test_the_mark_tells_how_much_is_missing():
    text = "".join(chr(97 + index % 26) for index in range(5000))
    shortened = shorten(text, 100)
    assert shortened == f"{text[:50]} ...[4900 characters cut]... {text[-50:]}"
    assert cut(text, 0) == " ...[5000 characters cut]... "
    assert shorten("whole", 5) == "whole"


def test_a_row_that_cannot_be_made_to_fit_is_counted_and_harms_nothing():
    buffer = Buffer(10, 5000)
    buffer.add(1, scored([1]), "margin")
    buffer.add(2, [{f"column{index}": float(index) for index in range(1000)}], "margin")
    assert kept(buffer) == ["p0"]
    assert (buffer.lost, buffer.cut, buffer.seen) == (1, 0, 2)


def test_a_large_row_takes_the_place_of_older_ones_and_not_more():
    buffer = Buffer(100, 20_000)
    buffer.add(1, scored([1] * 10), "margin")
    buffer.add(2, [{"prompt": "x" * 18_000, "margin": 0}], "margin")
    assert kept(buffer)[-1] == "x" * 18_000
    assert 1 < len(buffer) < 11


def test_fit_leaves_the_bytes_to_those_who_need_them():
    values = ("a" * 100, "b" * 50_000, "c" * 1000)
    fitted = fit(values, 10_000)
    assert fitted is not None
    assert (fitted[0], fitted[2]) == (values[0], values[2])
    assert 9000 < weight(fitted) <= 10_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([2.0]), 2.0),
        ([1, 2], "[1, 2]"),
        (np.str_("text"), "text"),
        ({"a": 1}, "{'a': 1}"),
        (None, None),
        (True, True),
    ],
)
def test_foreign_values_become_plain(value, expected):
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_a_tensor_becomes_its_number():
    import torch

    assert plain(torch.tensor(0.25)) == 0.25
    assert "tensor" in plain(torch.zeros(3))


def test_half_characters_become_readable():
    assert readable("a\ud83d") == "a\\ud83d"
    assert readable("😀 語 \x00\x1b") == "😀 語 \x00\x1b"

"""The plugin on a real bus: when tables come, what they hold, and what happens when something is wrong."""

from __future__ import annotations

import gc
import math
import os
import resource
import statistics
import time
import tracemalloc

import pandas as pd
import pytest

# --- when, and what -------------------------------------------------------------------------------------------------------------


def test_a_table_every_so_many_steps_and_one_at_the_end(stage, kit):
    here = stage(every=3)
    for step in range(1, 9):
        here.step(step, kit.preference(step))
    here.end()
    assert [table.step for table in here.shown.tables] == [3, 6, 8]
    assert here.shown.steps() == [[1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 6, 6], [7, 7, 8, 8]]
    table = here.shown.tables[0]
    assert table.name == "completions"
    assert table.columns == ("step", "prompt", "chosen", "rejected", "reward_chosen", "reward_rejected", "margin")
    assert table.rows[1] == (1, "How many hooks for line 1.1?", "Take 1.", "I don't know.", 0.01, -0.1, 0.11)
    assert here.failures == 0


def test_each_table_is_a_file_with_the_same_content(stage, kit):
    here = stage(every=2)
    for step in range(1, 6):
        here.step(step, kit.preference(step))
    here.end()
    names = sorted(path.name for path in here.folder.iterdir())
    assert names == ["step-000002.parquet", "step-000004.parquet", "step-000005.parquet"]
    for name, table in zip(names, here.shown.tables, strict=True):
        frame = pd.read_parquet(here.folder / name)
        assert tuple(frame) == table.columns
        assert [tuple(row) for row in frame.itertuples(index=False)] == list(table.rows)


def test_an_end_at_a_table_makes_no_second_one(stage, kit):
    here = stage(every=2)
    for step in (1, 2):
        here.step(step, kit.preference(step))
    here.run.hook.on_error(run=here.run, error=RuntimeError("x"))
    here.end()
    assert len(here.shown.tables) == 1


def test_a_crash_makes_the_last_table_before_trackers_close(stage, kit):
    """Shown stands behind the plugin in the order of calls here; test_runs.py has it the other way round."""
    here = stage(every=100)
    here.step(1, kit.preference(1))
    here.run.hook.on_error(run=here.run, error=RuntimeError("x"))
    assert here.shown.steps() == [[1, 1]]
    assert (here.folder / "step-000001.parquet").is_file()


def test_an_end_without_training_end_or_error_makes_it_too(stage, kit):
    here = stage()
    here.step(1, kit.preference(1))
    here.run.hook.on_run_end(run=here.run, status="interrupted", summary=here.run.summary)
    assert here.shown.steps() == [[1, 1]]


@pytest.mark.parametrize(
    ("sample", "steps"), [("last", [8, 9, 10]), ("first", [1, 2, 3]), ("worst", [1, 2, 3]), ("best", [10, 9, 8])]
)
def test_the_sample_of_a_window_and_anew_in_the_next(stage, kit, sample, steps):
    here = stage(every=10, max_rows=3, sample=sample)
    for step in range(1, 21):
        here.step(step, kit.preference(step, count=1))
    assert here.shown.steps() == [steps, [step + 10 for step in steps]]


def test_wanted_columns_in_the_wanted_order(stage, kit):
    here = stage(every=1, columns=["margin", "step", "prompt"])
    here.step(1, kit.preference(1, count=1))
    assert here.shown.tables[0].columns == ("step", "margin", "prompt")
    assert here.shown.tables[0].rows == ((1, 0.01, "How many hooks for line 1.0?"),)
    assert list(pd.read_parquet(here.folder)) == ["step", "margin", "prompt"]


def test_columns_may_change_from_step_to_step(stage):
    here = stage(every=3)
    here.step(1, [{"prompt": "a", "margin": 1}])
    here.step(2, [{"prompt": "b", "format": 0.5, "margin": None}])
    here.step(3, [{"completion": "c", "step": "their own"}])
    assert here.shown.tables[0].columns == ("step", "prompt", "margin", "format", "completion", "step_")
    assert here.shown.tables[0].rows == (
        (1, "a", 1, None, None, None),
        (2, "b", None, 0.5, None, None),
        (3, None, None, None, "c", "their own"),
    )
    frame = pd.read_parquet(here.folder)
    assert frame["margin"].tolist()[0] == 1
    assert frame["step"].tolist() == [1, 2, 3]
    assert here.failures == 0


def test_wanted_columns_that_come_and_go(stage):
    here = stage(every=2, columns=["prompt", "bonus"])
    here.step(1, [{"prompt": "a", "bonus": 0.5}])
    here.step(2, [{"prompt": "b"}])
    assert here.shown.tables[0].rows == ((1, "a", 0.5), (2, "b", None))


def test_hard_values_reach_file_and_table(stage):
    hard = ["a\nb\x00\x1b[31m", "👩‍👩‍👧 語", "half \ud83d", "", "x" * 100_000]
    numbers = [math.nan, math.inf, None, -1, 0.5]
    here = stage(every=1)
    here.step(1, [{"prompt": text, "margin": value, "same": None} for text, value in zip(hard, numbers, strict=True)])
    (table,) = here.shown.tables
    assert [row[1] for row in table.rows] == [*hard[:2], "half \\ud83d", *hard[3:]]
    frame = pd.read_parquet(here.folder)
    assert frame["prompt"].tolist() == [row[1] for row in table.rows]
    assert str(frame["margin"].tolist()[1:2]) == "[inf]"
    assert here.failures == 0


def test_steps_without_rows_make_no_table(stage, kit):
    here = stage(every=2)
    here.step(1, [])
    here.run.hook.on_step_end(run=here.run, step=2)
    assert not here.folder.exists()
    here.step(3, kit.preference(3))
    here.end()
    assert [table.step for table in here.shown.tables] == [3]


def test_the_rows_of_the_event_are_left_as_they_were(stage, kit):
    rows = kit.preference(1)
    stage(every=1, max_bytes=4096).step(1, rows)
    assert rows == kit.preference(1)


def test_other_ranks_do_nothing(stage, kit):
    here = stage(every=1)
    here.state.rank = 1
    here.step(1, kit.preference(1))
    here.begin()
    here.end()
    assert not here.folder.exists()
    assert here.failures == 0


def test_a_score_that_is_not_shown_still_sorts(stage, kit):
    here = stage(every=3, max_rows=1, sample="best", columns=["prompt"])
    for step in (1, 2, 3):
        here.step(step, kit.preference(step, count=1))
    assert here.shown.tables[0].rows == ((3, "How many hooks for line 3.0?"),)


# --- the disk -------------------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written(stage, kit):
    here = stage(every=1)
    here.folder.write_text("a file is in the way")
    for step in (1, 2, 3):
        here.step(step, kit.preference(step))
    here.end()
    assert [table.step for table in here.shown.tables] == [1, 2, 3]
    assert here.failures == 0
    first, last = here.shown.alerts
    assert "warning: completions are not kept on disk: cannot write into" in first
    assert "File exists" in first
    assert "tables are still raised" in first
    assert last == "warning: completions are missing on disk: 3 of 3 tables were not written"


def test_a_disk_that_is_full_for_a_while(stage, kit):
    here = stage(every=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = [{"prompt": os.urandom(25_000).hex(), "margin": 0.5}]
    here.step(1, kit.preference(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        here.step(2, big)
        here.run.hook.on_completions(run=here.run, completions=completions(big), step=3)
        here.run.hook.on_checkpoint(run=here.run, path=here.folder, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    here.run.hook.on_step_end(run=here.run, step=3)
    here.end()
    assert [table.step for table in here.shown.tables] == [1, 2, 3]
    assert sorted(path.name for path in here.folder.iterdir()) == ["step-000001.parquet", "step-000003.parquet"]
    assert len(here.shown.alerts) == 1
    assert "File too large" in here.shown.alerts[0]


def completions(rows):
    from longline import Completions

    return Completions("dpo", tuple(rows), "margin")


# --- sizes ----------------------------------------------------------------------------------------------------------------------


def test_rows_that_were_cut_or_left_out_are_told(stage):
    here = stage(max_bytes="20 kB", every=2)
    here.step(1, [{"prompt": "x" * 100_000, "margin": 1}, {f"c{index}": 0.5 for index in range(2000)}])
    here.step(2, [{"prompt": "y" * 100_000, "margin": 1}])
    here.end()
    told = "2 were cut and 1 left out, as each took more than max_bytes (20000)"
    assert here.shown.alerts == [f"info: completions too long for a table: {told}"]
    assert [len(row[1]) < 20_000 for row in here.shown.tables[0].rows] == [True]


LIMIT = 2**20
SLACK = 2**19
"""Rows of the step at hand, Python's own free lists, the account."""


@pytest.mark.parametrize("sample", ["last", "worst", "random"])
def test_memory_stays_flat_over_10000_steps(stage, sample):
    """Real events on a real bus; without the limits the rows would be 1.2 GB."""
    here = stage(every=500, max_rows=128, max_bytes=LIMIT, sample=sample)
    here.shown.tables = Forgetful()
    text = "How many hooks? " * 1000
    highest = 0
    for step in range(1, 10_001):
        if step == 1001:  # pyarrow is imported, the first tables are made
            gc.collect()
            tracemalloc.start()
        rows = [{"prompt": f"{step} {index} {text}", "margin": step * 7919 % 1000 / 1000} for index in range(8)]
        here.step(step, rows)
        buffer = here.run.plugins[0].instance._recorder.buffer
        assert len(buffer) <= 128
        assert buffer.size <= LIMIT
        if step > 1000:
            highest = max(highest, tracemalloc.get_traced_memory()[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del rows
    assert highest < LIMIT + SLACK
    assert peak < 2 * LIMIT + SLACK
    assert here.shown.tables.count == 20
    assert here.failures == 0
    last = pd.read_parquet(sorted(here.folder.iterdir())[-1])
    assert 40 < len(last) <= 128


class Forgetful:
    """Counts what it is given."""

    count = 0

    def append(self, _table) -> None:
        self.count += 1


@pytest.mark.parametrize("sample", ["last", "first", "worst", "best", "random"])
def test_a_step_costs_little(stage, kit, sample):
    """Eight rows of DPO with texts of 2 KB: about 30 us here; the limit leaves room for a slow and busy machine."""
    here = stage(every=10**6, sample=sample)
    rows = [{**row, "prompt": "x" * 2000, "chosen": "語" * 2000} for row in kit.preference(1, count=8)]
    event = completions(rows)
    times = []
    for step in range(1, 2001):
        begin = time.perf_counter()
        here.run.hook.on_completions(run=here.run, completions=event, step=step)
        times.append(time.perf_counter() - begin)
    assert statistics.median(times) < 200e-6


def test_texts_are_not_read_when_a_step_is_counted(stage, kit):
    """The cost of a row doesn't grow with its texts."""

    def cost(length: int) -> float:
        here = stage(every=10**6, max_rows=8, max_bytes=2**30)
        event = completions([{**row, "chosen": "語" * length} for row in kit.preference(1, count=8)])
        times = []
        for step in range(1, 501):
            begin = time.perf_counter()
            here.run.hook.on_completions(run=here.run, completions=event, step=step)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert cost(1_000_000) < 10 * cost(10)


# --- runs in turn ---------------------------------------------------------------------------------------------------------------


def test_one_plugin_serves_one_run_after_the_other(stage, kit, tmp_path):
    first = stage(every=1)
    second = stage(every=1, folder=tmp_path / "other")
    plugin = first.run.plugins[0].instance
    first.step(1, kit.preference(1))
    for hook, arguments in (
        ("on_completions", {"completions": completions(kit.preference(7)), "step": 7}),
        ("on_step_end", {"step": 7}),
    ):
        getattr(plugin, hook)(run=second.run, **arguments)
    assert [path.name for path in (second.run.output_dir / "completions").iterdir()] == ["step-000007.parquet"]
    assert [path.name for path in first.folder.iterdir()] == ["step-000001.parquet"]

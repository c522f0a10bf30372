"""Decorator, context manager and recordings: what is recorded, what is not, and that nothing else changes."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import pytest

from longline_profiling import carry, profile, profiled, recording
from longline_profiling.recorder import FURTHER, MAX_SPANS
from longline_profiling.spans import current


def by_name(session):
    return {row.name: row for row in session.rows()}


class Model:
    @profiled
    def forward(self, seconds):
        time.sleep(seconds)
        return seconds

    @staticmethod
    @profiled
    def below():
        return "below"

    @profiled
    @staticmethod
    def above():
        return "above"

    @profiled
    @classmethod
    def kind(cls):
        return cls.__name__


@profiled(name="a name of its own")
def named():
    return 1


@profiled
def fails():
    time.sleep(0.002)
    raise KeyError("no")


@profiled
def recursive(depth):
    return recursive(depth - 1) if depth else 0


def test_a_method_is_named_by_class_and_timed():
    model = Model()
    with recording() as session:
        assert [model.forward(0.01) for _ in range(3)] == [0.01] * 3
    row = by_name(session)["Model.forward"]
    assert (row.calls, row.failed, row.parent) == (3, 0, None)
    assert 0.03 <= row.seconds < 0.3
    assert 0.01 <= row.mean <= row.longest <= row.seconds
    assert "Model.forward" in session.summary()


def test_functions_keep_their_name_their_arguments_and_what_they_return():
    with recording() as session:
        assert (Model.below(), Model.above(), Model.kind(), named()) == ("below", "above", "Model", 1)
    assert list(by_name(session)) == ["Model.below", "Model.above", "Model.kind", "a name of its own"]
    assert Model.forward.__name__ == "forward"
    assert Model.forward.__wrapped__.__code__.co_varnames == ("self", "seconds")


def test_nobody_records_outside_a_recording():
    assert Model().forward(0.0) == 0.0
    with profile("alone"):
        assert current.get() is None
    with recording() as session:
        pass
    named()
    assert session.rows() == []


def test_a_recording_that_is_off_records_nothing():
    with recording(enabled=False) as session:
        assert named() == 1
        with profile("block"):
            assert current.get() is None
    assert session.rows() == []


def test_spans_inside_others_have_them_as_parents_and_fit_into_them():
    with recording() as session:
        with profile("outer"):
            for _ in range(2):
                with profile("inner"):
                    time.sleep(0.003)
            named()
        with profile("inner"):
            pass
    rows = [(row.name, row.parent, row.calls, row.depth) for row in session.rows()]
    assert rows == [
        ("outer", None, 1, 0),
        ("inner", "outer", 2, 1),
        ("a name of its own", "outer", 1, 1),
        ("inner", None, 1, 0),
    ]
    outer, inner = session.rows()[:2]
    assert 0.006 <= inner.seconds <= outer.seconds


def test_what_raises_is_recorded_and_raised():
    with recording() as session:
        with pytest.raises(KeyError, match="no"):
            fails()
        with pytest.raises(ZeroDivisionError), profile("block"):
            1 / 0  # noqa: B018
        assert current.get().name is None, "a span stayed open"
    rows = by_name(session)
    assert (rows["fails"].calls, rows["fails"].failed) == (1, 1)
    assert rows["fails"].seconds >= 0.002
    assert rows["block"].failed == 1


def test_recursion_counts_every_call():
    with recording() as session:
        recursive(4)
    rows = {(row.name, row.parent): row.calls for row in session.rows()}
    assert rows == {("recursive", None): 1, ("recursive", "recursive"): 4}


def test_coroutines_that_take_turns_keep_their_own_parents():
    @profiled
    async def work(name):
        with profile(f"part of {name}"):
            await asyncio.sleep(0.01)

    async def both():
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                with profile(name):
                    group.create_task(work(name))

    with recording() as session:
        asyncio.run(both())
    inside = {row.name: row for row in session.rows() if row.name.startswith("part")}
    assert set(inside) == {"part of a", "part of b"}
    assert all(row.parent == "work" and row.mean >= 0.01 for row in inside.values())
    assert {row.parent for row in session.rows() if row.name == "work"} == {"a", "b"}


def test_a_generator_is_refused_where_it_is_decorated():
    with pytest.raises(TypeError, match="numbers is a generator"):

        @profiled
        def numbers():
            yield 1


def test_threads_lose_no_span():
    threads, calls = 8, 5000
    barrier = Barrier(threads)

    def work():
        barrier.wait()
        for _ in range(calls):
            named()

    with recording() as session:
        with profile("all"):
            running = [Thread(target=carry(work)) for _ in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
        plain = Thread(target=named)
        plain.start()
        plain.join()
    row = by_name(session)["a name of its own"]
    assert (row.calls, row.parent) == (threads * calls, "all"), "a thread that carries nothing is not recorded"


def test_a_pool_keeps_no_recording_behind():
    with ThreadPoolExecutor(1) as pool:
        with recording() as session:
            pool.submit(carry(named)).result()
        pool.submit(named).result()
    assert by_name(session)["a name of its own"].calls == 1


def test_two_recordings_in_two_threads_do_not_meet():
    found = {}
    barrier = Barrier(2)

    def run(name):
        with recording() as session:
            barrier.wait()
            for _ in range(100):
                with profile(name):
                    pass
            barrier.wait()
        found[name] = [(row.name, row.calls) for row in session.rows()]

    threads = [Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": [("a", 100)], "b": [("b", 100)]}


def test_a_recording_inside_another_takes_the_spans():
    with recording() as outer:
        with recording() as inner, profile("x"):
            pass
        named()
    assert list(by_name(inner)) == ["x"]
    assert list(by_name(outer)) == ["a name of its own"]


def test_a_forked_worker_does_not_record():
    read, write = os.pipe()
    with recording():
        child = os.fork()
        if child == 0:
            os.write(write, b"off" if current.get() is None else b"on")
            os._exit(0)
        os.waitpid(child, 0)
        assert current.get() is not None
    assert os.read(read, 10) == b"off"


def test_short_spans_are_only_counted():
    with recording(min_duration_ms=5) as session:
        for _ in range(10):
            named()
        Model().forward(0.006)
    assert list(by_name(session)) == ["Model.forward"]
    assert session.recorder.short == 10


def test_names_made_from_data_do_not_fill_memory():
    with recording() as session:
        for number in range(MAX_SPANS + 50):
            with profile(f"row {number}"):
                pass
    rows = by_name(session)
    assert len(rows) == MAX_SPANS + 1
    assert rows[FURTHER].calls == 50


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="min_duration_ms"), recording(min_duration_ms=-1):
        pass

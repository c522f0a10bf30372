"""What a trace says: operators by their own time, gaps without any work, copies, small operators that come often.

Of each event that counts three numbers are kept: a million operators take about 0.2 GB while they are sorted.
"""

from __future__ import annotations

import heapq
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import add
from typing import Any

STEP = re.compile(r"ProfilerStep#(\d+)")
GPU = ("kernel", "gpu_memcpy", "gpu_memset")
RUNTIME = ("cuda_runtime", "cuda_driver")
COPIES = frozenset({"aten::copy_", "aten::_to_copy", "aten::to", "aten::contiguous", "aten::clone", "aten::pin_memory"})
SMALL_US = 10.0
"""An operator or kernel whose mean is below this costs about as much to start as to do."""
OFTEN = 20
"""Calls in a step from which on a small operator is counted as frequent."""
LOOK_BACK = 5000


@dataclass(frozen=True, slots=True)
class Operator:
    """Microseconds of one name: `own` without the operators that it called, `longest` with them."""

    name: str
    calls: int
    own: float
    total: float
    longest: float

    @property
    def mean(self) -> float:
        """Own microseconds a call."""
        return self.own / self.calls


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without work: where it begins, in microseconds from the start of the window, and what is around it."""

    begin: float
    microseconds: float
    step: int | None
    inside: str | None
    before: str
    after: str


@dataclass(slots=True)
class Spans:
    """Events of one thread or stream: begin, length and number of the name; times are in microseconds."""

    begin: array[float] = field(default_factory=lambda: array("d"))
    length: array[float] = field(default_factory=lambda: array("d"))
    name: array[int] = field(default_factory=lambda: array("L"))

    def add(self, begin: float, length: float, name: int) -> None:
        """Append one event."""
        self.begin.append(begin)
        self.length.append(length)
        self.name.append(name)

    def in_order(self) -> list[int]:
        """The places of the events by time, those around others first."""
        begin, length = self.begin, self.length
        return sorted(range(len(begin)), key=lambda place: (begin[place], -length[place]))


@dataclass(slots=True)
class Trace:
    """The events that count, sorted into the threads of the CPU and the streams of GPUs."""

    names: list[str] = field(default_factory=list)
    threads: dict[tuple[str, str], Spans] = field(default_factory=dict)
    devices: dict[tuple[str, str], Spans] = field(default_factory=dict)
    marks: Spans = field(default_factory=Spans)
    steps: list[tuple[float, float, int]] = field(default_factory=list)
    runtime: dict[str, tuple[int, float]] = field(default_factory=dict)
    copied: dict[str, float] = field(default_factory=dict)
    count: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a name."""
        found = self._numbers.setdefault(name, len(self.names))
        if found == len(self.names):
            self.names.append(name)
        return found


def collect(events: Iterable[dict[str, Any]]) -> Trace:
    """Sort events into a Trace; what has no length, or is not known, is left out."""
    trace = Trace()
    for event in events:
        trace.count += 1
        if event.get("ph") != "X":
            continue
        try:
            begin, length = float(event["ts"]), float(event["dur"])
        except (KeyError, TypeError, ValueError):
            continue
        _sort_in(trace, event, begin, length)
    trace.steps.sort()
    return trace


def _sort_in(trace: Trace, event: dict[str, Any], begin: float, length: float) -> None:
    kind, name = str(event.get("cat", "")), str(event.get("name", ""))
    if kind == "cpu_op":
        thread = trace.threads.setdefault((str(event.get("pid")), str(event.get("tid"))), Spans())
        thread.add(begin, length, trace.number(name))
    elif kind in GPU:
        stream = (str((event.get("args") or {}).get("device", event.get("pid"))), str(event.get("tid")))
        trace.devices.setdefault(stream, Spans()).add(begin, length, trace.number(name))
        if kind == "gpu_memcpy":
            trace.copied[name] = trace.copied.get(name, 0.0) + float((event.get("args") or {}).get("bytes", 0) or 0)
    elif kind == "user_annotation":
        step = STEP.fullmatch(name)
        if step:
            trace.steps.append((begin, begin + length, int(step[1])))
        else:
            trace.marks.add(begin, length, trace.number(name))
    elif kind in RUNTIME:
        calls, seconds = trace.runtime.get(name, (0, 0.0))
        trace.runtime[name] = (calls + 1, seconds + length)


# --- operators ------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    own: float = 0.0
    total: float = 0.0
    longest: float = 0.0


def operators(trace: Trace, groups: Iterable[Spans]) -> list[Operator]:
    """Return the sums of every name, the one with the most own time first."""
    sums: dict[int, _Sum] = {}
    for spans in groups:
        _add_own_times(spans, sums)
    found = [Operator(trace.names[name], s.calls, max(0.0, s.own), s.total, s.longest) for name, s in sums.items()]
    return sorted(found, key=lambda operator: -operator.own)


def _add_own_times(spans: Spans, sums: dict[int, _Sum]) -> None:
    """An operator's time is its own until another one begins within it."""
    open_: list[tuple[float, int]] = []
    for place in spans.in_order():
        begin, length, name = spans.begin[place], spans.length[place], spans.name[place]
        while open_ and open_[-1][0] <= begin:
            open_.pop()
        found = sums.setdefault(name, _Sum())
        found.calls += 1
        found.own += length
        found.longest = max(found.longest, length)
        if not any(above == name for _, above in open_):
            found.total += length
        if open_:
            sums[open_[-1][1]].own -= length
        open_.append((begin + length, name))


# --- gaps -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idle:
    """`idle` of `window` microseconds had no work; `largest` gaps by length, `inside` microseconds by what was going on."""

    window: float
    idle: float
    count: int
    largest: list[Gap]
    inside: dict[str, float]


def gaps(trace: Trace, groups: Iterable[Spans], top: int) -> Idle:
    """Return the stretches in which none of the groups, threads or the streams of a device, did anything."""
    groups = [spans for spans in groups if spans.begin]
    if not groups:
        return Idle(0.0, 0.0, 0, [], {})
    begin, end = _limits(trace, groups)
    idle, count = 0.0, 0

    def found() -> Iterator[tuple[float, float, str, str]]:
        """Length, begin and what is before and after, of every gap."""
        nonlocal idle, count
        reached, last = begin, "the start"
        for start, stop, name in chain(heapq.merge(*map(_work, groups)), [(end, end, -1)]):
            after = trace.names[name] if name >= 0 else "the end"
            until = min(start, end)
            if until > reached:
                idle += until - reached
                count += 1
                yield until - reached, reached, last, after
            if stop > reached:
                reached, last = stop, after

    long = heapq.nlargest(max(top, 200), found())
    marks = _Marks(trace)
    placed = [Gap(at - begin, length, _step(trace, at), marks.around(at + length / 2), b, a) for length, at, b, a in long]
    inside: dict[str, float] = {}
    for gap in placed:
        key = gap.inside or "nothing that was annotated"
        inside[key] = inside.get(key, 0.0) + gap.microseconds
    return Idle(end - begin, idle, count, placed[:top], dict(sorted(inside.items(), key=lambda item: -item[1])))


def _limits(trace: Trace, groups: Iterable[Spans]) -> tuple[float, float]:
    """Where the window begins and ends: the steps, or all that was done."""
    if trace.steps:
        return trace.steps[0][0], max(end for _, end, _ in trace.steps)
    ends = [max(map(add, spans.begin, spans.length)) for spans in groups]
    return min(min(spans.begin) for spans in groups), max(ends)


def _work(spans: Spans) -> Iterator[tuple[float, float, int]]:
    """Begin, end and name of all that is not inside something else, by time."""
    reached = float("-inf")
    for place in spans.in_order():
        begin, end = spans.begin[place], spans.begin[place] + spans.length[place]
        if end > reached:
            yield begin, end, spans.name[place]
            reached = end


def _step(trace: Trace, at: float) -> int | None:
    return next((number for begin, end, number in trace.steps if begin <= at <= end), None)


class _Marks:
    """Finds the innermost annotation around a moment."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.order = trace.marks.in_order()
        self.begins = [trace.marks.begin[place] for place in self.order]

    def around(self, at: float) -> str | None:
        """The annotation that began last before `at` and is still open then; of thousands before it only the nearest are seen."""
        last = bisect_right(self.begins, at) - 1
        marks = self.trace.marks
        for index in range(last, max(-1, last - LOOK_BACK), -1):
            place = self.order[index]
            if marks.begin[place] + marks.length[place] >= at:
                return self.trace.names[marks.name[place]]
        return None


# --- all together ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that is shown: times are in microseconds, shares from 0 to 1."""

    events: int
    device: str
    steps: list[tuple[int, float]]
    operators: list[Operator]
    kernels: list[Operator]
    idle: Idle
    copies: list[Operator]
    copied_bytes: dict[str, float]
    small: list[Operator]
    waits: dict[str, tuple[int, float]]

    @property
    def work(self) -> list[Operator]:
        """What the device did: kernels when there is a GPU, operators otherwise."""
        return self.kernels or self.operators

    @property
    def busy(self) -> float:
        """Microseconds of all work."""
        return sum(operator.own for operator in self.work)

    def share(self, operators: Iterable[Operator]) -> float:
        """The share of some operators in all work of their kind."""
        chosen = list(operators)
        there = self.kernels if chosen and chosen[0] in self.kernels else self.operators
        whole = sum(operator.own for operator in there)
        return sum(operator.own for operator in chosen) / whole if whole else 0.0


def analyse(trace: Trace, top: int = 10) -> Analysis:
    """Return what a trace says; lists of gaps hold `top` entries, the others all."""
    groups = list((trace.devices or trace.threads).values())
    ops, kernels = operators(trace, trace.threads.values()), operators(trace, trace.devices.values())
    rounds = max(1, len(trace.steps))
    work = kernels or ops
    return Analysis(
        events=trace.count,
        device="gpu" if kernels else "cpu",
        steps=[(number, end - begin) for begin, end, number in trace.steps],
        operators=ops,
        kernels=kernels,
        idle=gaps(trace, groups, top),
        copies=[op for op in (*kernels, *ops) if op.name in COPIES or op.name.startswith("Memcpy")],
        copied_bytes=trace.copied,
        small=[op for op in work if op.mean < SMALL_US and op.calls >= OFTEN * rounds],
        waits={name: sums for name, sums in trace.runtime.items() if "Synchronize" in name},
    )

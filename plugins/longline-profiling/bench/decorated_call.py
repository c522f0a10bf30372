"""What a decorated empty call costs beside a bare one: while nobody records, and while somebody does.

    python plugins/longline-profiling/bench/decorated_call.py [REPEATS]

The kinds alternate in one process, so that they share what the machine does at the moment. Printed are the median and the spread
(10th to 90th percentile) over the repeats, and the median of what a call costs more than the bare one right before it.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter

from longline_profiling import profile, profiled, recording
from longline_profiling.recorder import Recorder
from longline_profiling.spans import Span, current

CALLS = 20_000
LIMITS = {"off": 0.3, "on": 3.0}


def bare() -> None:
    """Do nothing."""


@profiled
def decorated() -> None:
    """Do nothing, timed."""


def block() -> None:
    """Do nothing in a timed block."""
    with profile("block"):
        pass


@profiled
def outer(function: Callable[[], None], calls: int) -> float:
    """Run the calls inside another span."""
    return measure(function, calls)


def measure(function: Callable[[], None], calls: int = CALLS) -> float:
    """Return microseconds a call, without those of the loop."""
    turns = range(calls)
    begin = perf_counter()
    for _ in turns:
        pass
    between = perf_counter()
    for _ in turns:
        function()
    return 1e6 * (perf_counter() - between - (between - begin)) / calls


def recorded(function: Callable[[], None]) -> float:
    """Measure inside a recording."""
    with recording(mfu=False):
        return measure(function)


def nested(function: Callable[[], None]) -> float:
    """Measure inside a span of a recording."""
    with recording(mfu=False):
        return outer(function, CALLS)


def heard(function: Callable[[], None]) -> float:
    """Measure with somebody who is told of every span, as a tracker in a run is; the bus's own time comes on top."""
    recorder, before = Recorder(tell=lambda timing: None), current.get()
    current.set(Span(recorder, None))
    try:
        return measure(function)
    finally:
        current.set(before)


def main() -> None:
    """Measure and print one line for each kind."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    kinds: dict[str, Callable[[], float]] = {
        "bare": partial(measure, bare),
        "decorated, off": partial(measure, decorated),
        "block, off": partial(measure, block),
        "decorated, on": partial(recorded, decorated),
        "block, on": partial(recorded, block),
        "decorated, on, nested": partial(nested, decorated),
        "decorated, on, heard": partial(heard, decorated),
    }
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    gc.disable()
    for _ in range(repeats):
        for kind, run in kinds.items():
            found[kind].append(run())
    for kind, values in found.items():
        deciles = statistics.quantiles(values, n=10)
        more = statistics.median(value - base for value, base in zip(values, found["bare"], strict=True))
        limit = next((limit for word, limit in LIMITS.items() if kind == f"decorated, {word}"), None)
        verdict = "" if limit is None else f"  limit {limit} us: {'kept' if more < limit else 'MISSED'}"
        line = f"{kind:22} {statistics.median(values):7.3f} us  ({deciles[0]:.3f} to {deciles[-1]:.3f})  +{more:.3f} us"
        sys.stdout.write(f"{line}{verdict}\n")


if __name__ == "__main__":
    main()

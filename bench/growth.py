"""How time and memory grow: with the sequence length, the number of plugins, the ranks and the length of a run.

    python bench/growth.py [--full] [--json FILE]

Everything is the real command with small models, in turns. Each row has `grows` (what is varied), `at` (its value) and what was
measured there. How data preparation grows with the rows is in data_growth.py.

A long run with rows of any length may hold 5 % more at its end than after a tenth, one with packs of one length 2 %: a shape that
comes for the first time, be it late, brings its kernels.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from common import Goal, Result, cores, finish, in_turns, options, spread
from race import Lap, prepare
from sides import Job, run_side

TOKENS = 8192
"""So many tokens a step, however long a sequence is."""
WINDOWS = 10
PACKED, PADDED = "run length", "run length, rows of any length"


def lengths(full: bool, rounds: int) -> tuple[list[dict[str, Any]], list[Goal]]:
    """The same number of tokens a step in longer and longer rows, beside the bare loop."""
    chosen = (256, 512, 1024, 2048, 4096, 8192) if full else (256, 1024)
    rows = []
    for length in chosen:
        base = Job("longline", shape="tiny", length=length, batch=TOKENS // length, steps=9)
        jobs = {"longline": base, "bare": replace(base, side="bare")}
        found = _laps(jobs, rounds, keep=True)
        for side, laps in found.items():
            rows.append({"grows": "sequence length", "at": length, "side": side, **_row(laps)})
    return rows, []


def plugins(full: bool, rounds: int) -> tuple[list[dict[str, Any]], list[Goal]]:
    """More and more plugins that observe every step, in a run with steps of a fraction of a second."""
    chosen = (0, 5, 10, 25, 50) if full else (0, 50)
    jobs = {str(count): Job("longline", batch=2, steps=14, plugins=count) for count in chosen}
    rows, goals = [], []
    for count, laps in _laps(jobs, rounds).items():
        share = spread(_hooks_share(lap) for lap in laps)
        rows.append({"grows": "plugins", "at": int(count), **_row(laps), "hooks, % of training": share})
    goals.append(
        Goal(f"{chosen[-1]} plugins: hooks, % of training", rows[-1]["hooks, % of training"]["median"], 0.7, most=True)
    )
    return rows, goals


def _hooks_share(lap: Lap) -> float:
    """What the bus and the idle plugins cost by the run's own account, in percent of training."""
    hooks = lap.found["manifest"]["hooks"]
    idle = (cost for name, calls in hooks["plugins"].items() if name.startswith("idle") for cost in calls.values())
    spent = hooks["bus_seconds"] + sum(cost["seconds"] for cost in idle)
    return 100 * spent / lap.found["manifest"]["summary"]["train_seconds"]


def ranks(rounds: int) -> tuple[list[dict[str, Any]], list[Goal]]:
    """The same batch in one process with all cores, and in two that share them."""
    jobs = {str(count): Job("longline", batch=4 // count, steps=12, nproc=count) for count in (1, 2)}
    rows = []
    for count, laps in _laps(jobs, rounds).items():
        rates = spread(lap.rate() * int(count) for lap in laps)
        rows.append(
            {"grows": "ranks", "at": int(count), "threads each": cores() // int(count), **_row(laps), "tokens/s": rates}
        )
    return rows, []


def run_lengths(steps: int) -> tuple[list[dict[str, Any]], list[Goal]]:
    """A long run with packs of one length in float32, and a shorter one whose batches differ, in bfloat16 where the CPU has it."""
    packed = Job("longline", shape="tiny", length=128, batch=1, steps=steps, rows=2000)
    rows, goals = _run_length(PACKED, packed, 1.02)
    differing = Job(
        "longline", shape="tiny", length=512, batch=4, steps=max(1000, steps // 4), packing=False, bf16=True, rows=2000
    )
    more_rows, more_goals = _run_length(PADDED, differing, 1.05)
    return rows + more_rows, goals + more_goals


def _run_length(name: str, job: Job, memory_grows: float) -> tuple[list[dict[str, Any]], list[Goal]]:
    """A run cut into windows: neither a step nor the memory may grow."""
    found, steps = run_side(job), job.steps
    gaps = [after - before for before, after in pairwise(found["times"])]
    memory, size = found["memory_mb"], steps // WINDOWS
    rows = []
    for window in range(WINDOWS):
        times = gaps[window * size : (window + 1) * size]
        held = memory[window * len(memory) // WINDOWS : (window + 1) * len(memory) // WINDOWS]
        quartiles = statistics.quantiles(times, n=4)
        step = {"median": statistics.median(times), "low": quartiles[0], "high": quartiles[2]}
        rows.append({"grows": name, "at": (window + 1) * size, "s/step": step, "memory MB": spread(held)})
    early, late = rows[1], rows[-1]
    return rows, [
        Goal(
            f"{name}, {steps} steps: memory at the end, times that after a tenth",
            _times(late, early, "memory MB"),
            memory_grows,
            most=True,
        ),
        Goal(
            f"{name}, {steps} steps: a step at the end, times one after a tenth", _times(late, early, "s/step"), 1.1, most=True
        ),
    ]


def _times(late: Mapping[str, Any], early: Mapping[str, Any], name: str) -> float:
    return float(late[name]["median"] / early[name]["median"])


def _laps(jobs: Mapping[str, Job], rounds: int, *, keep: bool = False) -> dict[str, list[Lap]]:
    prepare({"longline": next(iter(jobs.values()))})
    records = in_turns(list(jobs), rounds, lambda name: run_side(jobs[name], keep=keep and name == "longline"))
    return {name: [Lap(record, equal_steps=True) for record in laps] for name, laps in records.items()}


def _row(laps: list[Lap]) -> dict[str, Any]:
    return {
        "s/step": spread(lap.seconds for lap in laps),
        "peak MB": spread(lap.found["peak_mb"] for lap in laps),
        "others' processor time %": max(lap.found["others"] for lap in laps),
    }


def main() -> int:
    """Measure all four, or one; exit status 1 when something grows that must not."""
    more = (
        ("--full", {"action": "store_true", "help": "sequences to 8k, more plugin counts, 20,000 steps"}),
        ("--rounds", {"type": int, "default": 3}),
        ("--steps", {"type": int, "help": "steps of the long run; 20,000, or 1,000 without --full"}),
        ("--only", {"choices": ("lengths", "plugins", "ranks", "run"), "help": "one of them; FILE keeps the others"}),
    )
    chosen = options(__doc__, *more)
    parts = {
        "lengths": lambda: lengths(chosen.full, chosen.rounds),
        "plugins": lambda: plugins(chosen.full, chosen.rounds),
        "ranks": lambda: ranks(chosen.rounds),
        "run": lambda: run_lengths(chosen.steps or (20_000 if chosen.full else 1_000)),
    }
    result = Result("growth", "Growth", [], facts={"rounds": chosen.rounds, "tokens a step, sequence length": TOKENS})
    for name, measure in parts.items():
        if chosen.only in (None, name):
            rows, goals = measure()
            result.rows += rows
            result.goals += goals
    return finish(result, chosen.json, part_by="grows" if chosen.only else None)


if __name__ == "__main__":
    sys.exit(main())

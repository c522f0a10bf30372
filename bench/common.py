"""What the benchmarks share: repeats that take turns, results as a table and as JSON, goals, and the cache folder.

A result file is one JSON object: `name`, `title`, `goal` (a list: what, found, wanted, met), `rows` (flat; a measured value is an
object with median, low and high, or a plain number) and `facts` (what else was measured, and on what machine).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIBRARIES = ("longline", "torch", "transformers", "trl", "peft", "datasets", "pluggy")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to be: at least `wanted`, or at most when `most` is set."""

    what: str
    found: float | None
    wanted: float
    most: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is there and good enough."""
        if self.found is None:
            return False
        return self.found <= self.wanted if self.most else self.found >= self.wanted

    def as_dict(self) -> dict[str, Any]:
        """The goal as it is written into a result file."""
        sign = "<=" if self.most else ">="
        return {"what": self.what, "found": self.found, "wanted": f"{sign} {self.wanted:g}", "met": self.met}


@dataclass(slots=True)
class Result:
    """What one benchmark found."""

    name: str
    title: str
    rows: list[dict[str, Any]]
    goals: list[Goal] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every goal is reached."""
        return all(goal.met for goal in self.goals)

    def as_dict(self) -> dict[str, Any]:
        """The content of a result file."""
        return {
            "name": self.name,
            "title": self.title,
            "goal": [goal.as_dict() for goal in self.goals],
            "rows": self.rows,
            "facts": {**self.facts, "machine": machine()},
        }


def options(doc: str | None, *more: tuple[str, Mapping[str, Any]], arguments: Sequence[str] | None = None) -> Any:
    """Parse a benchmark's command line: `--json FILE`, and `more` (name, keywords of add_argument)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, keywords in more:
        parser.add_argument(name, **keywords)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as JSON")
    return parser.parse_args(arguments)


def finish(result: Result, path: Path | None, *, part_by: str | None = None) -> int:
    """Print a result, write it to `path`, and return the exit status: 1 when a goal is missed.

    `part_by` names a column: what the file has of other values of it stays, when only a part was measured.
    """
    print(f"{result.title}\n{table(result.rows)}")
    for goal in result.goals:
        shown = goal.as_dict()
        found = "not measured" if goal.found is None else f"{goal.found:.4g}"
        print(f"{'reached' if goal.met else 'MISSED '}  {goal.what}: {found} (goal {shown['wanted']})")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = result.as_dict()
        if part_by and path.exists():
            content = merged(json.loads(path.read_text(encoding="utf-8")), content, part_by)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if result.met else 1


def merged(old: Mapping[str, Any], new: dict[str, Any], column: str) -> dict[str, Any]:
    """A new result that keeps the old one's rows with other values in a column, and the goals that it does not have."""
    measured, named = {row[column] for row in new["rows"]}, {goal["what"] for goal in new["goal"]}
    rows = [row for row in old["rows"] if row[column] not in measured]
    goals = [goal for goal in old["goal"] if goal["what"] not in named]
    return {**new, "rows": rows + new["rows"], "goal": goals + new["goal"]}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text in columns; a column that only some rows have is empty in the others."""
    names = columns(rows)
    lines = [names, *([shown(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all columns, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def shown(value: Any) -> str:
    """A value of a row for people: a spread as its median and its ends."""
    if value is None:
        return ""
    if isinstance(value, Mapping) and "median" in value:
        return f"{number(value['median'])} ({number(value['low'])} to {number(value['high'])})"
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def number(value: float) -> str:
    """A number with three or four digits that mean something."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and greatest; from four values on also the quartiles."""
    found = sorted(values)
    result = {"median": statistics.median(found), "low": found[0], "high": found[-1]}
    if len(found) >= 4:
        result["first_quartile"], _, result["third_quartile"] = statistics.quantiles(found, n=4)
    return {name: float(f"{value:.5g}") for name, value in result.items()}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times as much ours are, round by round: what slows a round slows both."""
    return spread(mine / other for mine, other in zip(ours, theirs, strict=True))


def in_turns(names: Sequence[str], rounds: int, measure: Callable[[str], Any]) -> dict[str, list[Any]]:
    """Measure every name once a round, `rounds` times: A, B, C, A, B, C ..."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            found[name].append(measure(name))
            print(f"  round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    return found


def seconds_until(mark: str, command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command to its end; returns when a line with `mark` left it. SystemExit with its last words when none did."""
    found, told = None, []
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**environment, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            told.append(text)
            if found is None and mark in text:
                found = time.perf_counter() - begin
    if process.returncode or found is None:
        raise SystemExit(f"{command} failed with exit status {process.returncode}:\n{''.join(told)[-3000:]}")
    return found


def cache() -> Path:
    """Where models, rows and prepared data stay from one benchmark to the next; LONGLINE_BENCH_CACHE names another place."""
    folder = Path(os.environ.get("LONGLINE_BENCH_CACHE") or Path(tempfile.gettempdir()) / "longline-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Others:
    """What other programs took of the processors while this process's children worked; 0 where the system does not tell."""

    def __init__(self) -> None:
        self.begin = self._now()

    def percent(self) -> float:
        """Their share of all cores' time since the beginning; the children must have ended."""
        elapsed, busy, own = (now - then for now, then in zip(self._now(), self.begin, strict=True))
        return max(0.0, 100 * (busy - own) / (elapsed * (os.cpu_count() or 1)))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        children, mine = os.times(), time.process_time()
        own = children.children_user + children.children_system + mine
        try:
            ticks = [int(tick) for tick in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        except OSError:
            return time.perf_counter(), own, own
        idle = ticks[3] + ticks[4]
        return time.perf_counter(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), own


def machine() -> dict[str, Any]:
    """What figures depend on: cores, processor, memory, versions."""
    return {
        "cores": cores(),
        "processor": _from_proc("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_gb": round(int((_from_proc("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20),
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _from_proc(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)

"""Every benchmark of this folder, one after the other: a JSON file each, a page with tables and plots.

    python bench/run.py [--full] [NAME ...]

The short version takes about ten minutes on two cores, mostly with one round where the full one has three, and writes into
runs/bench; `--full` takes more than an hour, and writes bench/results, bench/results.md and docs/performance.md. NAME is a script
without `.py`; left out, all of them run. Exit status 1 when one of them fails or misses its goal.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import page
from common import HERE, cache

SHORT = HERE.parent / "runs" / "bench"
BENCHES: dict[str, tuple[list[str], list[str]]] = {
    "bus": ([], []),
    "bus_share": (["--steps", "12"], []),
    "observers": (["--blocks", "12"], []),
    "startup": (["--rounds", "3"], []),
    "first_step": (["--rounds", "1"], ["--full"]),
    "prepare": (["--rows", "10000", "--rounds", "1"], []),
    "train": (["--rounds", "1"], ["--full"]),
    "dpo": (["--rounds", "1"], ["--full"]),
    "growth": (["--rounds", "1"], ["--full"]),
    "data_growth": ([], ["--full"]),
    "resume": (["--rounds", "1"], ["--full"]),
}
"""Every benchmark with its arguments in the short and in the full version."""


def run(name: str, arguments: list[str], folder: Path) -> bool:
    """Run one script, which prints for itself; returns whether it reached its goals."""
    command = [f"bench/{name}.py", *arguments]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    begin = time.perf_counter()
    written = ["--json", str(folder / f"{name}.json")]
    done = subprocess.run([sys.executable, *command, *written], check=False, cwd=HERE.parent)
    print(f"{time.perf_counter() - begin:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run what is asked for, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all of it, into bench/results and docs/performance.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHES)}")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in BENCHES]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    os.environ.setdefault("LONGLINE_BENCH_CACHE", str(cache()))
    folder = page.RESULTS if chosen.full else SHORT
    folder.mkdir(parents=True, exist_ok=True)
    reached = [run(name, BENCHES[name][chosen.full], folder) for name in chosen.names or BENCHES]
    if chosen.full:
        page.main([])
        print(f"\nwritten: {page.PAGE}, {page.SUMMARY} and {folder}")
    else:
        page.write(folder, folder / "performance.md", folder / "plots")
        print(f"\nwritten: {folder / 'performance.md'}")
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())

"""How long commands take that start no training, beside `trl sft --help`.

    python bench/startup.py [--rounds N] [--json]

The commands take turns, so that a busy machine slows all of them alike; one round before the first fills the disk cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

BIN = Path(sys.executable).parent
GOAL = 20
CONFIG = "model: {{path: owner/name}}\ndata: {{train: {rows}}}\ntrainer: {{learning_rate: 1e-4}}\noutput_dir: runs/x\n"


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands by the name that the result has; `check` gets a config that is right."""
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "config.yaml").write_text(CONFIG.format(rows=folder / "rows.jsonl"))
    longline = str(BIN / "longline")
    found = {
        "longline --help": [longline, "--help"],
        "longline train --help": [longline, "train", "--help"],
        "longline plugins": [longline, "plugins"],
        "longline check": [longline, "check", str(folder / "config.yaml")],
    }
    return {**found, "trl sft --help": [str(BIN / "trl"), "sft", "--help"]} if (BIN / "trl").exists() else found


def seconds(command: list[str]) -> float:
    """Run a command to its end."""
    begin = perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return perf_counter() - begin


def measure(rounds: int) -> list[dict[str, object]]:
    """Median, best and worst of each command, and how many times faster than trl's its median is."""
    with tempfile.TemporaryDirectory() as name:
        chosen = commands(Path(name))
        taken: dict[str, list[float]] = {name: [] for name in chosen}
        for number in range(rounds + 1):
            for name, command in chosen.items():
                spent = seconds(command)
                if number:
                    taken[name].append(spent)
    peer = statistics.median(taken["trl sft --help"]) if "trl sft --help" in taken else None
    return [
        {
            "command": name,
            "median_seconds": round(statistics.median(values), 3),
            "spread_seconds": [round(min(values), 3), round(max(values), 3)],
            "times_faster": round(peer / statistics.median(values), 1) if peer else None,
        }
        for name, values in taken.items()
    ]


def main() -> int:
    """Print the results; exit status 1 when --help is less than 20 times as fast as trl's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.rounds)
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for row in results:
            low, high = row["spread_seconds"]
            ratio = f"  {row['times_faster']:>5} times as fast as trl" if row["times_faster"] else ""
            print(f"{row['command']:<22} {row['median_seconds']:.3f} s ({low:.3f} to {high:.3f}){ratio}")
    ratio = results[0]["times_faster"]
    return int(ratio is not None and ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())

"""How long commands take that train nothing, beside trl's.

    python bench/startup.py [--rounds 5] [--json FILE]

Commands take turns, so that a busy machine slows all of them alike; a round before the first fills the disk cache. A config error
is a misspelled name, `longline train` against `trl sft --config`; both must refuse it. Needs trl.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from common import Goal, Result, finish, in_turns, options, ratios, spread

BIN = Path(sys.executable).parent
GOAL = 20
CONFIG = "model: {{path: owner/name}}\ndata: {{train: {rows}}}\ntrainer: {{{name}: 1e-4}}\noutput_dir: runs/x\n"
PEERS = {
    "longline --help": "trl sft --help",
    "longline train --help": "trl sft --help",
    "longline check": "trl sft, config error",
    "longline train, config error": "trl sft, config error",
}
REFUSES = ("longline train, config error", "trl sft, config error")


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands by the name that the result has; `check` gets a config that is right."""
    rows = folder / "rows.jsonl"
    rows.write_text("{}\n")
    (folder / "good.yaml").write_text(CONFIG.format(rows=rows, name="learning_rate"))
    (folder / "bad.yaml").write_text(CONFIG.format(rows=rows, name="learning_rat"))
    (folder / "trl.yaml").write_text(f"model_name_or_path: owner/name\ndataset_name: {folder}\nlearning_rat: 1e-4\n")
    longline, trl = str(BIN / "longline"), str(BIN / "trl")
    return {
        "longline --help": [longline, "--help"],
        "longline train --help": [longline, "train", "--help"],
        "longline plugins": [longline, "plugins"],
        "longline check": [longline, "check", str(folder / "good.yaml")],
        "longline train, config error": [longline, "train", str(folder / "bad.yaml")],
        "trl sft --help": [trl, "sft", "--help"],
        "trl sft, config error": [trl, "sft", "--config", str(folder / "trl.yaml")],
    }


def seconds(name: str, command: list[str]) -> float:
    """Run a command to its end; it must fail if it is one that refuses."""
    begin = perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    spent = perf_counter() - begin
    if (done.returncode != 0) != (name in REFUSES):
        raise SystemExit(f"{name}: exit status {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")
    return spent


def measure(rounds: int) -> Result:
    """Seconds of each command, and how many times faster than trl's it is."""
    with tempfile.TemporaryDirectory() as name:
        chosen = commands(Path(name))
        taken = in_turns(list(chosen), rounds + 1, lambda name: seconds(name, chosen[name]))
    taken = {name: values[1:] for name, values in taken.items()}
    times = {name: ratios(taken[peer], taken[name]) for name, peer in PEERS.items()}
    rows = [
        {"command": name, "seconds": spread(values), "times_as_fast": times.get(name), "as": PEERS.get(name)}
        for name, values in taken.items()
    ]
    goals = [Goal(f"{name}, times as fast as {PEERS[name]}", found["median"], GOAL) for name, found in times.items()]
    return Result("startup", "Commands that train nothing, from start to end", rows, goals)


def main() -> int:
    """Measure, print and write; exit status 1 when a command is less than 20 times as fast as trl's."""
    given = options(__doc__, ("--rounds", {"type": int, "default": 5}))
    return finish(measure(given.rounds), given.json)


if __name__ == "__main__":
    sys.exit(main())

"""How fast DPO is, beside trl's DPOTrainer on the same pairs, and how much of the batches is padding.

    python bench/dpo.py [--full] [--json FILE]

The same model and 4,000 pairs with answers of log-normal lengths, eight pairs a step, with a frozen copy as the reference on
both sides. Tokens are counted without padding. `trl as shipped` is started by accelerate launch, which sets one thread.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from common import Goal, Result, cores, finish, options
from race import race
from sides import Job


def main() -> int:
    """Race, and print who was how fast; exit status 1 when a goal is missed."""
    more = (
        ("--full", {"action": "store_true", "help": "also trl as shipped, and without gradient checkpointing"}),
        ("--rounds", {"type": int, "default": 3}),
        ("--steps", {"type": int}),
    )
    chosen = options(__doc__, *more)
    steps = chosen.steps or (15 if chosen.full else 8)
    base = Job("longline", method="dpo", shape="7m", batch=8, steps=steps)
    trl = replace(base, side="trl", threads=cores())
    jobs = {"longline": base, "trl, equal threads": trl}
    if chosen.full:
        jobs["trl as shipped"] = replace(trl, threads=None, launch=True)
        jobs["trl, equal threads, no checkpointing"] = replace(trl, checkpointing=False)
    rows, faster = race("7m", jobs, chosen.rounds, equal_steps=False)
    found = [Goal(f"DPO: times {side}", times["median"], 1.3) for side, times in faster.items()]
    return finish(Result("dpo", "DPO", rows, found, {"rounds": chosen.rounds, "pairs a step": base.batch}), chosen.json)


if __name__ == "__main__":
    sys.exit(main())

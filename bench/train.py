"""How fast supervised fine-tuning is, beside trl, LLaMA-Factory and a bare PyTorch loop on the same work.

    python bench/train.py [--full] [--json FILE]

Every side trains the same model on the same 20,000 conversations, packed to 512 tokens, in a process of its own, in turns. Tokens
are counted before padding, by the same code. `trl as shipped` is started by accelerate launch as `trl sft` does, which sets
one thread; everything else takes all cores. LLaMA-Factory takes part when LONGLINE_BENCH_LLAMAFACTORY names the Python of an
environment that has it.

The goals are those of the small model. With SmolLM2 in float32 three quarters of a step are products of matrices and attention,
which cost every side the same but for the head's, a fifth of the products: what leaving out tokens that are not trained can give
is less there.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

from common import Goal, Result, cores, finish, options
from race import race
from sides import LLAMAFACTORY, Job

BATCH = {"7m": 4, "smollm2": 2}
SHIPPED, EQUAL, UNCHECKED = "trl as shipped", "trl, equal threads", "trl, equal threads, no checkpointing"


def sides(base: Job, *chosen: str) -> dict[str, Job]:
    """The jobs of some sides, all like `base`."""
    trl = replace(base, side="trl")
    known = {
        "longline": base,
        "bare": replace(base, side="bare"),
        "gemm": replace(base, side="gemm", steps=30),
        SHIPPED: replace(trl, launch=True),
        EQUAL: replace(trl, threads=cores()),
        UNCHECKED: replace(trl, threads=cores(), checkpointing=False),
        "LLaMA-Factory": replace(base, side="llamafactory", threads=cores(), checkpointing=False),
    }
    wanted = [*chosen, *(["LLaMA-Factory"] if LLAMAFACTORY in os.environ and not base.bf16 else [])]
    return {name: known[name] for name in wanted}


def works(full: bool) -> dict[str, dict[str, Job]]:
    """What is raced: a name, and the job of every side."""
    steps = 15 if full else 7
    small = Job("longline", shape="7m", batch=BATCH["7m"], steps=steps)
    found = {"7m": sides(small, "longline", "bare", SHIPPED, EQUAL, *([UNCHECKED] if full else []), "gemm")}
    if not full:
        return found
    real = Job("longline", shape="smollm2", batch=BATCH["smollm2"], steps=7)
    return {
        **found,
        "7m LoRA": sides(replace(small, lora=True), "longline", "bare"),
        "7m bfloat16": sides(replace(small, bf16=True), "longline", "bare", EQUAL, "gemm"),
        "SmolLM2": sides(real, "longline", "bare", EQUAL, "gemm"),
        "SmolLM2 LoRA": sides(replace(real, lora=True), "longline", "bare"),
        "SmolLM2 bfloat16": sides(replace(real, bf16=True), "longline", "bare", "gemm"),
    }


def goals(work: str, rows: list[dict[str, Any]], faster: dict[str, Any]) -> list[Goal]:
    """What has to be reached in one work."""
    wanted = {SHIPPED: 4.0, EQUAL: 2.4, "bare": 1.1, "LLaMA-Factory": 1.1}
    found = [Goal(f"{work}: times {side}", faster[side]["median"], wanted[side]) for side in faster if side in wanted]
    peaks = {row["side"]: row["peak MB"]["median"] for row in rows if "peak MB" in row}
    if "bare" in peaks:
        found.append(Goal(f"{work}: peak memory, times bare", peaks["longline"] / peaks["bare"], 1.1, most=True))
    return found


def main() -> int:
    """Race, and print who was how fast; exit status 1 when a goal is missed."""
    more = (
        ("--full", {"action": "store_true", "help": "also LoRA, bfloat16, the 135M model and trl without checkpointing"}),
        ("--rounds", {"type": int, "default": 3}),
        ("--only", {"metavar": "WORK", "help": "one of them, such as '7m LoRA'; FILE keeps the others"}),
    )
    chosen = options(__doc__, *more)
    result = Result("train", "SFT, packed to 512 tokens", [])
    for work, jobs in works(chosen.full or bool(chosen.only)).items():
        if chosen.only in (None, work):
            rows, faster = race(work, jobs, chosen.rounds)
            result.rows += rows
            result.goals += goals(work, rows, faster)
    result.facts = {"rounds": chosen.rounds, "batch rows": BATCH}
    return finish(result, chosen.json, part_by="work" if chosen.only else None)


if __name__ == "__main__":
    sys.exit(main())

"""Several sides at the same work, in turns: what `train.py` and `dpo.py` make of the records of `sides.py`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from common import in_turns, ratios, spread
from corpus import model_folder
from sides import Job, run_side

WARM_UP = 3
"""So many steps at the beginning are not counted: caches fill, memory is claimed."""


@dataclass(frozen=True)
class Lap:
    """The record of one process."""

    found: Mapping[str, Any]
    equal_steps: bool

    @cached_property
    def steps(self) -> list[float]:
        """Seconds of each step that counts."""
        times = self.found["times"]
        return [after - before for before, after in pairwise(times)][WARM_UP - 1 :]

    @property
    def seconds(self) -> float:
        """Seconds of a step: the median where all steps are equally long, so that a hiccup of the machine does not count."""
        return statistics.median(self.steps) if self.equal_steps else statistics.fmean(self.steps)

    def rate(self, name: str = "tokens") -> float:
        """How many `tokens`, `slots` or `trained` ones a second."""
        counted = self.found[name][WARM_UP : WARM_UP + len(self.steps)]
        return statistics.fmean(counted) / self.seconds

    def share(self, part: str, whole: str) -> float:
        """How much of the whole a part is, in percent."""
        return 100 * sum(self.found[part]) / sum(self.found[whole])


def race(what: str, jobs: Mapping[str, Job], rounds: int, *, equal_steps: bool = True) -> tuple[list[dict[str, Any]], Any]:
    """Run every job once a round; returns a row for each side and, by side, how many times faster longline is."""
    prepare(jobs)
    keep = "bare" in jobs  # it trains on the batches that longline has just had
    records = in_turns(list(jobs), rounds, lambda side: run_side(jobs[side], keep=keep and side == "longline"))
    found = {side: [Lap(record, equal_steps) for record in laps] for side, laps in records.items()}
    peaks = [lap.rate() for lap in found.pop("gemm", [])]
    rows, faster = [], {}
    for side, laps in found.items():
        rates = [lap.rate() for lap in laps]
        row = {
            "work": what,
            "side": side,
            "threads": laps[0].found["threads"],
            "tokens/s": spread(rates),
            "s/step": spread(lap.seconds for lap in laps),
            "peak MB": spread(lap.found["peak_mb"] for lap in laps),
            "trained %": round(laps[0].share("trained", "tokens"), 1),
            "padding %": round(100 - laps[0].share("tokens", "slots"), 1),
            "others' processor time %": max(lap.found["others"] for lap in laps),
        }
        if peaks:
            floats = flops(jobs[side])
            row["MFU %"] = spread(100 * rate * floats / peak for rate, peak in zip(rates, peaks, strict=True))
        if side != "longline":
            faster[side] = ratios([lap.rate() for lap in found["longline"]], rates)
            row["longline is x times as fast"] = faster[side]
        rows.append(row)
    if peaks:
        rows.append({"work": what, "side": "matrix product, GFLOP/s", "tokens/s": spread(peak / 1e9 for peak in peaks)})
    return rows, faster


def prepare(jobs: Mapping[str, Job]) -> None:
    """Let every side that prepares data fill its cache."""
    for job in {job.side: job for job in jobs.values() if job.side not in ("bare", "gemm")}.values():
        run_side(replace(job, steps=1, launch=False, threads=None))


def flops(job: Job) -> float:
    """Floating point operations of a token, forward and backward, by the usual count: 6 for each weight, attention left out.

    Under LoRA the frozen weights have no gradients of their own: 4. An embedding that is not also the head is only looked up.
    """
    return (4 if job.lora else 6) * weights(model_folder(job.shape))


def weights(folder: Path) -> int:
    """How many weights a model multiplies with."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            untied = any(name.startswith("lm_head") for name in names)
            counted = [name for name in names if not (untied and "embed_tokens" in name)]
            total += sum(prod(file.get_slice(name).get_shape()) for name in counted)
    return total

"""How many threads a rank computes with: all cores, shared by the ranks of this machine, unless the user says otherwise.

A launcher is no user: torchrun and `accelerate launch` set OMP_NUM_THREADS to 1 where nobody set it, which leaves most of a
machine idle. Whether they did is seen in what they themselves were started with.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import psutil

VARIABLE = "OMP_NUM_THREADS"
ACCELERATE_OPTION = "--num_cpu_threads_per_process"
CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: those it is bound to, no more than its container's share, hardware threads not counted."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Two hardware threads share the units of their core that multiply matrices.
    return max(1, math.ceil(min(bound, psutil.cpu_count(logical=False) or bound, quota())))


def quota(root: Path = CGROUPS, member: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that the control groups of this process allow, the least of all levels; infinite without a limit.

    Both paths are those of Linux; where they are not there, there is no limit.
    """
    own = ""
    with suppress(OSError):
        lines = member.read_text(encoding="ascii").splitlines()
        own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    folder = root / own
    folders = [folder, *folder.parents][: len(Path(own).parts) + 1]
    limits = [_limit((folder / "cpu.max",)) for folder in folders]
    first_version = root / "cpu"
    limits.append(_limit((first_version / "cpu.cfs_quota_us", first_version / "cpu.cfs_period_us")))
    return min(limits)


def _limit(files: tuple[Path, ...]) -> float:
    """Time over period, in one file or in two; `max` and -1 stand for no limit."""
    try:
        time, period = " ".join(file.read_text(encoding="ascii") for file in files).split()
        return int(time) / int(period) if int(time) > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


def share(ranks: int) -> int:
    """Threads for each of `ranks` processes on this machine."""
    return max(1, cores() // ranks)


def settle(ranks: int, *, launched: bool) -> tuple[int, str]:
    """Set torch's threads for one of `ranks` processes on this machine; returns how many, and why. Imports torch.

    `launched`: torchrun or `accelerate launch` started this process as a rank; one that is alone is noticed here.
    """
    import torch

    part = share(ranks)
    meant = VARIABLE in os.environ
    if meant and (launched or _is_alone_under_accelerate()) and _chosen_by_launcher():
        meant = False
        torch.set_num_threads(part)
    if not meant:
        torch.set_num_threads(min(part, torch.get_num_threads()))
    number = torch.get_num_threads()
    if number != part:
        return number, VARIABLE if meant else "as torch is set"
    free = f"{cores()} core{'' if cores() == 1 else 's'}"
    return number, free if ranks == 1 else f"{free} for {ranks} processes"


def _is_alone_under_accelerate() -> bool:
    """Whether `accelerate launch` started this process, which is no rank; `os.environ` may have got the name later."""
    try:
        return "ACCELERATE_DYNAMO_BACKEND" in psutil.Process().environ()
    except (psutil.Error, OSError):
        return False


def _chosen_by_launcher() -> bool:
    """Whether the process that started this one was itself started without the variable, and without accelerate's option."""
    try:
        parent = psutil.Process().parent()
        return parent is not None and VARIABLE not in parent.environ() and ACCELERATE_OPTION not in parent.cmdline()
    except (psutil.Error, OSError):
        return False

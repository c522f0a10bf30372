"""Ranks and launching. Torch-free at import: a command that starts no training never pays for it.

A rank is told by the environment that torchrun and `accelerate launch` set (RANK, LOCAL_RANK, WORLD_SIZE).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from longline.errors import EXIT_DONE, EXIT_TRAINING, ConfigError
from longline.plan import Device, Machine

LAUNCHED = "LONGLINE_LAUNCHED"
"""Set for ranks that `launch` started: they report an interruption in the manifest and end with 0, since torchrun would
print any other status as a crash."""


def rank() -> int:
    """Return this process's place among all ranks, from 0."""
    return _environment_int("RANK", 0)


def world_size() -> int:
    """Return the number of ranks, over all nodes."""
    return _environment_int("WORLD_SIZE", 1)


def under_launcher() -> bool:
    """Tell whether torchrun or accelerate launch started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _environment_int(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    try:
        return int(value) if value else default
    except ValueError:
        raise ConfigError(f"environment variable {name} is {value!r}, not a number", hint="torchrun sets it") from None


def machine(*, use_cpu: bool = False) -> Machine:
    """Ask torch what this process can compute on; imports torch."""
    import torch

    device: Device = "cpu"
    if not use_cpu:
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
        elif hasattr(torch, "xpu") and torch.xpu.is_available():
            device = "xpu"
    return Machine(device=device, bfloat16=_computes_in_bfloat16(device), world_size=world_size())


def _computes_in_bfloat16(device: Device) -> bool:
    """Without AMX or AVX512-BF16 (or their Arm kin) a CPU emulates bfloat16, slower than float32; so do older GPUs."""
    import torch

    if device != "cpu":
        return device == "xpu" or (device == "cuda" and torch.cuda.get_device_capability() >= (8, 0))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "amx", "avx512_bf16", "bf16"))


@contextmanager
def main_rank_first() -> Iterator[None]:
    """Let rank 0 run the block before the others, so that they find what it cached."""
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    if rank() != 0:
        dist.barrier()
    try:
        yield
    finally:
        if rank() == 0:
            dist.barrier()


def any_rank(flag: bool) -> bool:
    """Return whether `flag` is true on some rank; a collective, so every rank must call it at the same point."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([int(flag)], device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


def launch(arguments: Sequence[str], nproc: int, output_dir: Path) -> int:
    """Run `longline ARGUMENTS` as `nproc` ranks on this machine under torchrun and return the run's exit status.

    Signals go straight to the ranks, since torchrun would kill them 30 seconds later, in the middle of a save. The exit status
    is the one that the main rank wrote into the manifest, since torchrun knows only success and failure.
    """
    command = [
        *(sys.executable, "-m", "longline.distributed", "--standalone", "--nproc-per-node", str(nproc)),
        *("-m", "longline", *arguments),
    ]
    threads = str(max(1, (os.cpu_count() or 1) // nproc))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, LAUNCHED: "1"}
    before = _recorded(output_dir)
    # In its own session, so that a Ctrl-C in the terminal reaches only us and the ranks get it once.
    child = subprocess.Popen(command, env=environment, start_new_session=True)

    def forward(signum: int, _frame: FrameType | None) -> None:
        for rank_process in _ranks_of(child.pid):
            rank_process.send_signal(signum)

    previous = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    after = _recorded(output_dir)
    if after is not None and after != before:
        return after[1]
    return EXIT_DONE if code == 0 else EXIT_TRAINING


def _ranks_of(launcher: int) -> list[psutil.Process]:
    """The processes that torchrun started as ranks; the launcher itself when there are none yet."""
    try:
        process = psutil.Process(launcher)
        ranks = [child for child in process.children() if "longline" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []
    return ranks or [process]


def _recorded(output_dir: Path) -> tuple[str, int] | None:
    """The end time and exit status in a manifest, if it has both."""
    try:
        manifest = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
        return str(manifest["ended"]), int(manifest["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def torchrun() -> None:
    """Run torchrun with this process's arguments, without its own account of a rank that failed: the rank has told why."""
    import logging

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError:
        sys.exit(EXIT_TRAINING)


if __name__ == "__main__":
    torchrun()

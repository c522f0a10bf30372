"""Memory and time of the loss alone: forward and backward from hidden states and the head's weight.

    python plugins/longline-cce/bench/memory.py                      # vocabulary 131072, 2048 tokens, hidden 512, float32, CPU
    python plugins/longline-cce/bench/memory.py --device cuda --dtype bfloat16

Memory is the most that was held beside what went in (hidden states and weight), their gradients included. On a CPU each loss
has a process of its own: Linux is told to forget the high-water mark of its resident memory (`/proc/self/clear_refs`) when the
inputs are there, and asked for it after the backward; a short call before that has loaded all libraries. On CUDA it is
`torch.cuda.max_memory_allocated`. Times are of one process in which the losses take turns; median, and the span of all repeats.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from click import echo
from torch.nn.functional import cross_entropy, linear

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What transformers does: all logits, in float32, and their cross entropy."""
    return cross_entropy(linear(hidden, weight).float(), targets, reduction="sum")


def chunked(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """impl: chunked of this plugin."""
    from longline_cce.chunked import chunked_loss

    return chunked_loss([(hidden, weight)], None, targets)


def cce(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """impl: cce of this plugin."""
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(hidden, weight, targets, reduction="sum", impl="cce")


def torch_compile(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """impl: torch_compile of this plugin."""
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(hidden, weight, targets, reduction="sum", impl="torch_compile")


def trl(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What trl's trainers use."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    return -ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 4096, None, 1.0, ())[0].sum()


def torch_own(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """torch 2.13's own, chunked; it knows no softcap and no head of several products."""
    options = torch.nn.LinearCrossEntropyOptions()
    return torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


LOSSES: dict[str, Loss] = {
    "plain": plain,
    "chunked": chunked,
    "cce": cce,
    "torch_compile": torch_compile,
    "trl chunked": trl,
    "torch chunked": torch_own,
}


def inputs(args: argparse.Namespace, tokens: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight and targets; the first two want gradients."""
    generator = torch.Generator().manual_seed(0)
    device, dtype = args.device, getattr(torch, args.dtype)
    hidden = torch.randn(tokens or args.tokens, args.hidden, generator=generator).to(device, dtype).requires_grad_()
    weight = (torch.randn(args.vocabulary, args.hidden, generator=generator) * 0.05).to(device, dtype)
    targets = torch.randint(0, args.vocabulary, (tokens or args.tokens,), generator=generator).to(device)
    return hidden, weight.requires_grad_(not args.frozen), targets


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def peak(name: str, args: argparse.Namespace) -> int:
    """Bytes that a loss takes, in this process."""
    loss = LOSSES[name]
    small = argparse.Namespace(**{**vars(args), "vocabulary": 512})
    loss(*inputs(small, 64)).backward()
    given = inputs(args)
    if name == "torch_compile":
        loss(*given).backward()  # compiles for these sizes
        given[0].grad = given[1].grad = None
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(*given).backward()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    loss(*given).backward()
    return status("VmHWM") - before


def times(names: list[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each loss, taking turns."""
    given = inputs(args)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.repeats + 1):
        for name in names:
            given[0].grad = given[1].grad = None
            start = time.perf_counter()
            LOSSES[name](*given).backward()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first is for warming up
                measured[name].append(time.perf_counter() - start)
    return measured


def child(args: argparse.Namespace, *extra: str) -> str:
    """The last line of this script in a process of its own, empty when it failed."""
    given = [
        f"--{name}={getattr(args, name)}"
        for name in ("vocabulary", "tokens", "hidden", "device", "dtype", "threads", "repeats")
    ]
    command = [sys.executable, __file__, *given, *(["--frozen"] if args.frozen else []), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        echo(f"{extra}: {done.stderr.strip().splitlines()[-1][:200]}", err=True)
        return ""
    return done.stdout.strip().splitlines()[-1]


def table(args: argparse.Namespace) -> None:
    """Measure all and print."""
    names = [name for name in args.losses.split(",") if name != "cce" or args.device == "cuda"]
    peaks = {name: int(answer) for name in names if (answer := child(args, f"--peak={name}"))}
    took = json.loads(child(args, f"--time={','.join(peaks)}"))
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {args.threads} threads"
    echo(
        f"vocabulary {args.vocabulary}, {args.tokens} tokens, hidden {args.hidden}, {args.dtype}, {device}, "
        f"torch {torch.__version__}"
    )
    echo("| loss | peak MiB | of plain | seconds (span) | of plain |\n| --- | ---: | ---: | ---: | ---: |")
    for name in peaks:
        middle = statistics.median(took[name])
        ratio = statistics.median(own / other for own, other in zip(took[name], took["plain"], strict=True))
        span = f"{middle:.3f} ({min(took[name]):.3f} to {max(took[name]):.3f})"
        share = 100 * peaks[name] / peaks["plain"]
        echo(f"| {name} | {peaks[name] / 2**20:,.0f} | {share:.1f} % | {span} | {ratio:.2f} |")


def main() -> None:
    """Read the command line; a child answers with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("vocabulary", 131072), ("tokens", 2048), ("hidden", 512), ("threads", 2), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--frozen", action="store_true", help="the head's weight is not trained, as with LoRA")
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--time", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        echo(peak(args.peak, args))
    elif args.time:
        echo(json.dumps(times(args.time.split(","), args)))
    else:
        table(args)


if __name__ == "__main__":
    main()

"""The report on a trace, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline_profiling import table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from longline_profiling.analysis import Analysis, Operator
    from longline_profiling.findings import Finding

WIDEST = 60
"""Characters of a name; those of GPU kernels may have hundreds."""


def lines(path: Path, found: Analysis, what: list[Finding], top: int) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"{path}: {found.events:,} events{_steps(found)}"
    yield from _operators("kernels of the GPU", found, found.kernels, top)
    yield from _operators("operators of the CPU", found, found.operators, top)
    yield from _gaps(found)
    yield from _operators("copies", found, found.copies, top, none="there are no copies")
    for name, size in found.copied_bytes.items():
        yield f"  {name}: {size / 1e6:,.1f} MB"
    kind = "kernels" if found.device == "gpu" else "operators"
    small = sorted(found.small, key=lambda operator: -operator.calls)
    yield from _operators(f"small frequent {kind}", found, small, top, none=f"no small {kind} come often")
    yield from ("", "what stands out")
    for number, finding in enumerate(what, 1):
        yield f"{number}. {finding.what}"
        yield f"   hint: {finding.hint}"


def _steps(found: Analysis) -> str:
    if not found.steps:
        return ""
    first, last = found.steps[0][0], found.steps[-1][0]
    mean = sum(length for _, length in found.steps) / len(found.steps)
    return f", step {first} to {last}, {mean / 1000:.2f} ms a step"


def _operators(title: str, found: Analysis, operators: list[Operator], top: int, none: str = "") -> Iterator[str]:
    if not operators:
        if none:
            yield from ("", none)
        return
    rows = [
        (
            _short(operator.name),
            str(operator.calls),
            f"{operator.own / 1000:.3f}",
            f"{operator.mean:.1f}",
            f"{operator.total / 1000:.3f}",
            f"{100 * found.share([operator]):.1f} %",
        )
        for operator in operators[:top]
    ]
    yield from ("", title)
    yield table.text(rows, ("name", "calls", "own ms", "mean us", "with inner ms", "share"))


def _gaps(found: Analysis) -> Iterator[str]:
    idle = found.idle
    if not idle.window:
        return
    what = "the GPU has nothing to do" if found.device == "gpu" else "no operator runs"
    yield from (
        "",
        f"gaps: {what} for {100 * idle.idle / idle.window:.1f} % of {idle.window / 1000:.2f} ms, {idle.count} times",
    )
    rows = [
        (
            _short(gap.inside or "-"),
            f"{gap.microseconds / 1000:.3f}",
            str(gap.step or "-"),
            _short(gap.before),
            _short(gap.after),
        )
        for gap in idle.largest
    ]
    if rows:
        yield table.text(rows, ("inside", "ms", "step", "after", "before"))


def _short(name: str) -> str:
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 3]}..."

"""What a session came to: for the file, for a table event, and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longline_profiling import table

if TYPE_CHECKING:
    from longline import Run, Summary
    from longline.events import Status
    from longline_profiling.meter import Meter, Sums
    from longline_profiling.session import Session

TABLE = "timings"
"""The name of the table event."""


def table_event(session: Session) -> tuple[str, tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Return name, columns and rows of the table that trackers show; seconds and milliseconds are numbers."""
    columns = ("name", "parent", "calls", "total s", "mean ms", "max ms", "of training %")
    rows = tuple(
        (
            row.name,
            row.parent or "",
            row.calls,
            round(row.seconds, 6),
            round(1000 * row.mean, 3),
            round(1000 * row.longest, 3),
            None if row.share is None else round(100 * row.share, 2),
        )
        for row in session.rows()
    )
    return TABLE, columns, rows


def entry(session: Session, run: Run, status: Status, summary: Summary) -> dict[str, Any]:
    """Return the session as timings.json keeps it: times in seconds, shares from 0 to 1."""
    files = session.window.files if session.window is not None else []
    return {
        "run": run.id,
        "status": status,
        "method": run.config.method,
        "first_step": session.first_step,
        "last_step": summary.steps,
        "train_seconds": session.train_seconds,
        "rest_seconds": session.rest_seconds,
        "min_duration_ms": session.options.min_duration_ms,
        "short_spans": session.recorder.short,
        "throughput": _throughput(session.meter, session.no_mfu) if session.meter is not None else None,
        "spans": [row.as_dict() for row in session.rows()],
        "ranks": [_rank(sums) for sums in session.ranks],
        "files": [str(path.relative_to(run.output_dir)) for path in files],
    }


def _throughput(meter: Meter, no_mfu: str) -> dict[str, Any] | None:
    totals = meter.totals
    if totals.seconds <= 0:
        return None
    found: dict[str, Any] = {
        "seconds": totals.seconds,
        "steps_per_second": totals.steps / totals.seconds,
        "tokens_per_second": totals.tokens / totals.seconds if totals.tokens else None,
    }
    if meter.flops is None or meter.peak is None:
        return {**found, "no_mfu": no_mfu}
    return {
        **found,
        "mfu_percent": meter.mfu_percent(totals.flops, totals.seconds),
        "flops": totals.flops,
        "flops_per_token_without_attention": meter.flops.per_token,
        "peak_tflops": meter.peak.flops / 1e12,
        "peak_from": meter.peak.source,
    }


def _rank(sums: Sums) -> dict[str, Any]:
    return {name: {"calls": calls, "mean": seconds / calls, "max": longest} for name, (calls, seconds, longest) in sums.items()}


# --- for people -----------------------------------------------------------------------------------------------------------------


def show(sessions: list[dict[str, Any]]) -> None:
    """Print sessions, one below the other."""
    for session in sessions:
        click.echo("\n".join(_lines(session)))


def _lines(session: dict[str, Any]) -> list[str]:
    first, last, seconds = session["first_step"], session["last_step"], session["train_seconds"]
    steps = f"steps {first} to {last}" if first is not None and last >= first else "no step"
    lines = [f"profiling: {steps}, {session['status']}, {seconds:.1f} s of training", _figures(session)]
    if session["short_spans"]:
        lines.append(f"left out: {session['short_spans']} spans shorter than {session['min_duration_ms']:g} ms")
    if session["throughput"]:
        lines.append(_rates(session["throughput"]))
    if session["ranks"]:
        lines += ["mean / max ms of each rank, up to the last log event", _by_rank(session["ranks"])]
    return [*lines, *(f"  {name}" for name in session["files"])]


def _figures(session: dict[str, Any]) -> str:
    lines = [table.cells(table.Row(**row)) for row in session["spans"]]
    if session["rest_seconds"] is not None and session["train_seconds"]:
        lines.append(table.rest(session["rest_seconds"], session["train_seconds"]))
    return table.text(lines)


def _rates(found: dict[str, Any]) -> str:
    parts = [f"{found['steps_per_second']:.3g} steps/s"]
    if found["tokens_per_second"] is not None:
        parts.append(f"{found['tokens_per_second']:,.0f} tokens/s")
    if "mfu_percent" in found:
        parts.append(f"MFU {found['mfu_percent']:.3g} % of {found['peak_tflops']:.4g} TFLOPS ({found['peak_from']})")
    elif found["no_mfu"]:
        parts.append(f"no MFU: {found['no_mfu']}")
    return f"without evaluation and saving: {', '.join(parts)}"


def _by_rank(ranks: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(name for rank in ranks for name in rank)
    lines = []
    for name in names:
        there = [rank.get(name) for rank in ranks]
        lines.append((name, *(f"{1000 * of['mean']:.3f} / {1000 * of['max']:.3f}" if of else "-" for of in there)))
    return table.text(lines, ("name", *(f"rank {number}" for number in range(len(ranks)))))

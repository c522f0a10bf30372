"""`longline profile`: the figures of a run, and what its trace says. Neither imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline.errors import ConfigError

if TYPE_CHECKING:
    from longline_profiling.analysis import Analysis
    from longline_profiling.findings import Finding


@click.group("profile")
def command() -> None:
    """Where the time of a run went."""


@command.command("show")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: times in seconds, shares from 0 to 1.")
def show_command(run: Path, as_json: bool) -> None:
    """Print how often and how long everything ran in RUN, a run folder that the plugin profiling was on for.

    Exit status: 0 done, 2 there are no figures.
    """
    from longline_profiling import report, store

    sessions = store.read(run)
    if as_json:
        click.echo(json.dumps(sessions, ensure_ascii=False))
    else:
        report.show(sessions)


@command.command("analyze")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--rank", type=click.IntRange(min=0), help="Take the trace of this rank.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Lines in each table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: times in microseconds, shares from 0 to 1.")
def analyze_command(run: Path, rank: int | None, top: int, as_json: bool) -> None:
    """Print top operators, gaps, copies and small frequent kernels of a trace, and what to do about them.

    RUN is a run folder, whose newest trace of the main rank is taken, or the file of a Chrome trace, plain or gzipped.

    Exit status: 0 done, 2 there is no trace, or it cannot be read.
    """
    from longline_profiling import analysis, findings, trace

    path = find_trace(run, rank)
    found = analysis.analyse(analysis.collect(trace.events(path)), top)
    if not found.operators and not found.kernels:
        raise ConfigError(f"{path} holds no operator", hint="record steps of training: plugins.profiling.steps")
    what = findings.find(found)
    if as_json:
        click.echo(json.dumps(_as_json(path, found, what, top), ensure_ascii=False))
    else:
        from longline_profiling import sections

        click.echo("\n".join(sections.lines(path, found, what, top)))


def find_trace(run: Path, rank: int | None) -> Path:
    """Return the trace that is meant: a file itself, or the newest one of a run folder, of the main rank if it has one.

    Raises:
        ConfigError: there is none.
    """
    if run.is_file():
        return run
    if not run.is_dir():
        raise ConfigError(f"there is no {run}", hint="give a run folder or a trace")
    folder, names = run / "profile", ["0", "*"] if rank is None else [str(rank)]
    for name in names:
        found = sorted(folder.glob(f"trace-rank{name}-step*.json.gz"), key=lambda path: path.stat().st_mtime)
        if found:
            return found[-1]
    of = "" if rank is None else f" of rank {rank}"
    hint = "record one: plugins: {profiling: {steps: {start: 3, count: 5}}}"
    raise ConfigError(f"{run} holds no trace{of}", hint=hint)


def _as_json(path: Path, found: Analysis, what: list[Finding], top: int) -> dict[str, Any]:
    def rows(operators: list[Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": operator.name,
                "calls": operator.calls,
                "own_us": operator.own,
                "total_us": operator.total,
                "mean_us": operator.mean,
                "max_us": operator.longest,
                "share": found.share([operator]),
            }
            for operator in operators[:top]
        ]

    idle = found.idle
    return {
        "trace": str(path),
        "events": found.events,
        "device": found.device,
        "steps": [{"step": number, "us": length} for number, length in found.steps],
        "operators": rows(found.operators),
        "kernels": rows(found.kernels),
        "gaps": {
            "window_us": idle.window,
            "idle_us": idle.idle,
            "count": idle.count,
            "inside_us": idle.inside,
            "largest": [
                {"us": gap.microseconds, "at_us": gap.begin, "step": gap.step, "inside": gap.inside}
                | {"before": gap.before, "after": gap.after}
                for gap in idle.largest
            ],
        },
        "copies": rows(found.copies),
        "copied_bytes": found.copied_bytes,
        "small": rows(found.small),
        "waits": {name: {"calls": calls, "us": length} for name, (calls, length) in found.waits.items()},
        "findings": [finding.as_dict() for finding in what],
    }

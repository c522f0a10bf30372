"""`longline runs`: what lies in a folder of runs; one run on a screen, several side by side, and away with what is not wanted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from longline import artifacts
from longline.builtin.pace import duration
from longline.cli.options import ShortGroup, output
from longline.errors import ConfigError
from longline.record import Record, records
from longline.record.query import Condition, known, ordered
from longline.text import clipped

COLUMNS = ("run", "status", "method", "steps", "loss", "eval_loss", "seconds", "started")
RESULTS = ("status", "steps", "epochs", "tokens", "seconds", "loss", "eval_loss")
"""What `compare` shows of each run, before the metrics that more than one has."""

TIMINGS = ("_runtime", "_per_second", "total_flos", "train_loss")
"""How names of metrics end that tell of the machine, or are shown under another name."""


@click.group("runs", cls=ShortGroup, subcommand_metavar="[list] [FOLDER] | show RUN | compare RUN RUN ... | rm RUN ...")
def command() -> None:
    """List runs, look at one, compare several, or delete what they wrote."""


# --- list ---------------------------------------------------------------------------------------------------------------------


@command.command("list")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default="runs")
@click.option(
    "--sort",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Order by KEY; -KEY from the greatest down. Several: the first counts most.",
)
@click.option(
    "--where",
    "texts",
    multiple=True,
    metavar="CONDITION",
    help="Only runs for which it holds: method=dpo, eval_loss<0.5, run~demo.",
)
@click.option("--columns", metavar="KEYS", help="What to show, with commas; +KEY adds to what is shown anyway.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one run a line.")
def list_command(folder: Path, keys: tuple[str, ...], texts: tuple[str, ...], columns: str | None, as_json: bool) -> None:
    """List the runs below FOLDER, newest first.

    A KEY is a metric (eval_loss), a name of run.json (status, steps, plan.dtype), or a key of the config (trainer.learning_rate);
    also run, size, loss, seconds.
    """
    conditions, shown = [Condition.of(text) for text in texts], _columns(columns)
    found = records(folder, lambda error: click.echo(f"left out: {error}", err=True))
    if not found and not as_json:
        raise ConfigError(f"no run below {folder}")
    asked = [*(key.removeprefix("-") for key in keys), *(condition.key for condition in conditions)]
    known(found, [*asked, *(name for name in shown if name not in COLUMNS)])
    chosen = ordered([record for record in found if all(condition.holds(record) for condition in conditions)], keys)
    if as_json:
        for record in chosen:
            click.echo(json.dumps({"path": str(record.path), **record.manifest}, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for name in shown:
        numbers = any(isinstance(record.value(name), (int, float)) for record in chosen)
        table.add_column(escape(name), justify="right" if numbers else "left", overflow="fold")
    for record in chosen:
        table.add_row(*(escape(_cell(name, record.value(name))) for name in shown))
    output().print(table)
    if len(chosen) < len(found):
        click.echo(f"{len(chosen)} of {len(found)} runs below {folder}", err=True)


def _columns(text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    more = [name[1:] for name in names if name.startswith("+")]
    own = [name for name in names if not name.startswith("+")]
    return list(dict.fromkeys([*(own or COLUMNS), *more]))


def _cell(name: str, value: Any) -> str:
    """A value in a table, as short as a person wants it."""
    if value is None:
        return "-"
    if name == "size":
        return _size(value)
    if name in ("started", "ended"):
        return str(value)[:19]
    if name == "seconds":
        return f"{value:.1f}"
    if isinstance(value, float):
        return format(value, ".4f" if name.endswith("loss") and 1e-3 <= abs(value) < 1e6 else ".4g")
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 80)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# --- show ---------------------------------------------------------------------------------------------------------------------


@command.command("show")
@click.argument("run", type=click.Path(path_type=Path))
def show_command(run: Path) -> None:
    """Show one RUN on a screen.

    What it was, what came of it, what it warned of, what it takes on disk, and what can be done with it.
    """
    record = Record.of(run)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in _facts(record):
        table.add_row(name, escape(text))
    output().print(table)


def _facts(record: Record) -> list[tuple[str, str]]:
    manifest = record.manifest
    when = f"{str(manifest.get('started', '-'))[:19]}, {duration(record.value('seconds') or 0)} of training"
    plan = manifest.get("plan")
    asked = (
        [f"{name} {plan[name]}" for name in ("adapter", "dtype", "device", "layout", "batch") if plan.get(name)]
        if isinstance(plan, dict)
        else []
    )
    plugins = [
        str(plugin.get("name", "?")) if isinstance(plugin, dict) else str(plugin) for plugin in manifest.get("plugins") or []
    ]
    found = [
        ("run", f"{record.path} ({manifest.get('id', '-')})"),
        ("status", _status(record)),
        *_told(manifest),
        ("when", when),
        ("method", ", ".join([str(manifest.get("method", "-")), *asked])),
        ("model", str(manifest.get("model", "-"))),
        ("data", _data(manifest.get("data"))),
        ("plugins", ", ".join(plugins) or "none"),
        ("done", _done(record)),
        *_curves(record),
        (
            "disk",
            ", ".join(f"{name} {_size(size)}" for name, size in record.sizes.items() if size >= 1e5)
            or _size(record.value("size")),
        ),
    ]
    return [*found, *(("next" if not number else "", text) for number, text in enumerate(_next(record)))]


def _status(record: Record) -> str:
    code = record.manifest.get("exit_code")
    return f"{record.manifest.get('status', '-')}" + (f", exit status {code}" if code else "")


def _told(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ended the run, and what it warned of."""
    alerts = [alert for alert in manifest.get("alerts") or [] if isinstance(alert, dict) and alert.get("level") != "info"]
    found = [("error", str(manifest["error"]))] if manifest.get("error") else []
    for alert in alerts[:8]:
        times = f" ({alert['count']} times)" if alert.get("count", 1) > 1 else ""
        found.append((str(alert.get("level")), f"{alert.get('title')}{times}: {clipped(str(alert.get('text', '')), 160)}"))
    return [*found, *([("", f"and {len(alerts) - 8} more in run.json")] if len(alerts) > 8 else [])]


def _data(data: Any) -> str:
    if not isinstance(data, dict):
        return "-"
    parts = []
    for split in ("train", "eval"):
        part, names = (
            data.get(split),
            [source.get("name") for source in data.get("sources") or [] if source.get("split") == split],
        )
        if isinstance(part, dict):
            rows, tokens, learnt = (part.get(name, 0) for name in ("samples", "tokens", "trained_tokens"))
            parts.append(f"{split}: {rows:,} rows, {tokens:,} tokens, {learnt:,} learnt ({', '.join(map(str, names))})")
    return "\n".join(parts) or "-"


def _done(record: Record) -> str:
    steps, planned = record.value("steps"), record.value("plan.steps")
    seconds, tokens = record.value("seconds"), record.value("tokens")
    text = f"{steps if steps is not None else len(record.log) and record.log[-1].get('step', 0)} of {planned or '?'} steps"
    if tokens and seconds:  # seconds are those since a resume
        text += f", {tokens:,} tokens, {(tokens - (record.value('summary.from_tokens') or 0)) / seconds:,.0f} tokens/s"
    return text


def _curves(record: Record) -> list[tuple[str, str]]:
    """Each measure that tells how it went, as a line of blocks with its first, last and least value."""
    logged = {key for event in record.log for key in event if key.startswith(("eval_", "reward")) and not key.endswith(TIMINGS)}
    found = []
    for name in ("loss", "eval_loss", *sorted(logged - {"eval_loss"})[:4]):
        points = [(event[name], event.get("step")) for event in record.log if isinstance(event.get(name), (int, float))]
        if points:
            (first, *_), (last, _), (least, step) = points[0], points[-1], min(points, key=lambda point: point[0])
            text = _cell(name, first)
            text += f" to {_cell(name, last)}, least {_cell(name, least)}" if len(points) > 1 else ""
            found.append((name, f"{_blocks([value for value, _ in points])}  {text} at step {step}"))
    return found


def _blocks(values: Sequence[float], width: int = 40) -> str:
    """A line of eighths of blocks; more values than `width` are means of neighbours."""
    size = -(-len(values) // width)
    means = [sum(part) / len(part) for part in (values[at : at + size] for at in range(0, len(values), size))]
    least, span = min(means), max(means) - min(means) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (value - least) / span))] for value in means)


def _next(record: Record) -> list[str]:
    """Commands that fit what is there."""
    path, done = record.path, record.manifest.get("status") == "completed"
    last = artifacts.checkpoints(path)
    found = [] if done or not last else [f"longline train {path} --resume"]
    if (path / "model").is_dir():
        found += [f"longline generate {path}", f"longline evaluate {path}"]
        found += [f"longline merge {path}"] if record.config.get("adapter") and not (path / "merged").is_dir() else []
    return found or [f"longline train {path} --overwrite"]


# --- compare ------------------------------------------------------------------------------------------------------------------


@command.command("compare")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: key to a list of values, one a run.")
def compare_command(runs: tuple[Path, ...], as_json: bool) -> None:
    """Show what differs between the configs of RUNS, and their results."""
    if len(runs) < 2:
        raise ConfigError("one run alone cannot be compared", hint=f"name another one, or `longline runs show {runs[0]}`")
    found = [Record.of(path) for path in runs]
    differing, results = _differing(found), _results(found)
    if as_json:
        click.echo(
            json.dumps({"runs": [str(path) for path in runs], "config": differing, "results": results}, ensure_ascii=False)
        )
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for path in runs:
        table.add_column(escape(str(path)), justify="right", overflow="fold")
    for part in (differing or {"config": ["the same" for _ in runs]}, results):
        for name, values in part.items():
            table.add_row(escape(name), *(escape(_cell(name, value)) for value in values))
        table.add_section()
    output().print(table)


def _differing(found: Sequence[Record]) -> dict[str, list[Any]]:
    """The keys of the configs whose values are not the same in all runs; where a run writes is no difference."""
    keys = sorted({key for record in found for key in _flat(record.config)} - {"output_dir"})
    rows = {key: [_flat(record.config).get(key) for record in found] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _results(found: Sequence[Record]) -> dict[str, list[Any]]:
    counts = Counter(name for record in found for name in record.metrics if not name.endswith(TIMINGS))
    shared = sorted(
        name for name, count in counts.items() if count > 1 and name not in ("epoch", "learning_rate", "num_tokens")
    )
    rows = {name: [record.value(name) for record in found] for name in (*RESULTS, *shared)}
    return {name: values for name, values in rows.items() if any(value is not None for value in values)}


def _flat(place: Any, before: str = "") -> dict[str, Any]:
    if isinstance(place, Mapping) and place:
        return {key: value for name, inner in place.items() for key, value in _flat(inner, f"{before}{name}.").items()}
    if isinstance(place, list) and any(isinstance(inner, (Mapping, list)) for inner in place):
        return {key: value for at, inner in enumerate(place) for key, value in _flat(inner, f"{before}{at}.").items()}
    return {before[:-1]: place} if before else {}


# --- rm -----------------------------------------------------------------------------------------------------------------------


@command.command("rm")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--checkpoints", "only", is_flag=True, help="Delete checkpoints alone; the model, the log and the manifest stay.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm_command(runs: tuple[Path, ...], only: bool, yes: bool) -> None:
    """Delete what Longline wrote into the folders of RUNS.

    That is its own files and those of its plugins; whatever else lies there stays.
    """
    found = [Record.of(path) for path in dict.fromkeys(runs)]
    chosen = [(record, [name for name in record.sizes if not only or name.startswith("checkpoint-")]) for record in found]
    for record, names in chosen:
        total = sum(record.sizes[name] for name in names)
        click.echo(f"{record.path} ({record.manifest.get('status', '-')}): {', '.join(names) or 'nothing'}, {_size(total)}")
    if not any(names for _, names in chosen):
        return
    if not yes:
        click.confirm("delete them?", abort=True, err=True)
    for record, names in chosen:
        left = artifacts.remove(record.path, names)
        if left and not only:
            click.echo(f"{record.path} stays: {', '.join(left)} in it is not Longline's")

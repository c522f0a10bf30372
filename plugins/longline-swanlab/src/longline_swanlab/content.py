"""What is sent: the options as swanlab names them, the config, tables and alerts; here secrets are masked."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from longline.text import one_line

if TYPE_CHECKING:
    from longline import Alert, Run, Table
    from longline_swanlab.config import SwanLabConfig

Mask = Callable[[str], str]

LIBRARIES = ("longline", "swanlab", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers")


def settings(config: SwanLabConfig, *, mode: str, run_id: str | None, resume: str | None) -> dict[str, Any]:
    """The options as swanlab's Settings has them; what is left out here is swanlab's to find."""
    key = config.api_key.get_secret_value() if config.api_key else None
    found = {
        "interactive": False,
        "mode": mode,
        "log_dir": str(config.log_dir) if config.log_dir else None,
        "api_key": key,
        "api_host": config.api_host,
        "web_host": config.web_host,
        "project": {"name": config.project, "workspace": config.workspace, "public": config.public},
        "experiment": {
            "name": config.experiment_name,
            "description": config.description,
            "tags": list(config.tags) if config.tags is not None else None,
            "group": config.group,
            "job_type": config.job_type,
        },
        "run": {"id": run_id, "resume": resume},
        "terminal": {"proxy_type": "none"},
        "probe": {
            "monitor": config.monitor,
            **dict.fromkeys(("hardware", "runtime", "requirements", "git", "swanlab"), config.environment),
        },
    }
    return _without_none(found)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: _without_none(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in kept.items() if value is not None and value != {}}


def command(mask: Mask) -> list[str]:
    """The command line of this process without secrets, for the recorder to show as its own."""
    return [mask(word) for word in [os.path.basename(sys.argv[0]), *sys.argv[1:]]]  # noqa: PTH119 - may be no path


def run_config(run: Run) -> dict[str, Any]:
    """What SwanLab shows as the config: that of the run as it was resolved, and what Longline made of it."""
    import yaml

    resolved = yaml.safe_load(run.resolved)
    facts = {fact.name: fact.value for fact in run.plan.facts}
    longline = {"run": run.id, "command": shlex.join(command(run.mask)), "plan": facts, "versions": versions(run)}
    masked: dict[str, Any] = _masked({**resolved, "longline": longline}, run.mask)
    return masked


def versions(run: Run) -> dict[str, str]:
    """Versions of Python, of the libraries that decide what training does, and of the enabled plugins."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *(plugin.distribution for plugin in run.plugins if plugin.distribution)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _masked(value: Any, mask: Mask) -> Any:
    """Values as JSON has them, every text masked."""
    if isinstance(value, Mapping):
        return {str(name): _masked(item, mask) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item, mask) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return mask(str(value))


def log_message(logs: Mapping[str, Any], step: int) -> dict[str, Any] | None:
    """The numbers of a log event, or None when there are none."""
    values = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
    return {"kind": "log", "values": values, "step": step} if values else None


def table_message(table: Table, mask: Mask) -> dict[str, Any]:
    """A table, its texts masked."""
    rows = [[_cell(cell, mask) for cell in row] for row in table.rows]
    columns = [one_line(mask(column)) for column in table.columns]
    return {"kind": "table", "name": mask(table.name), "columns": columns, "rows": rows, "step": table.step}


def _cell(cell: Any, mask: Mask) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    return cell if cell is None or isinstance(cell, (bool, int, float)) else mask(str(cell))


def alert_message(alert: Alert, step: int, mask: Mask) -> dict[str, Any]:
    """An alert as a text with a caption."""
    at = "" if alert.step is None else f" · step {alert.step}"
    return {
        "kind": "alert",
        "caption": one_line(mask(f"{alert.level} · {alert.title}{at}")),
        "text": mask(alert.text or alert.title),
        "step": step,
    }

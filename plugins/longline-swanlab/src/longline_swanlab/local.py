"""Mode local: what the dashboard has to be given, and whether it shows the run."""

from __future__ import annotations

import json
from pathlib import Path

from longline_swanlab.upstream import experiment_in


def show_environment(folder: Path) -> None:
    """Add to what swanlab recorded of the machine the names under which this dashboard looks for it; without, it shows nothing."""
    path = folder / "files" / "swanlab-metadata.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    runtime, git, hardware = (known.get(name) or {} for name in ("runtime", "git", "hardware"))
    cpu, memory = (hardware.get(name) or {} for name in ("cpu", "memory"))
    names = {"python": "python_version", "executable": "python_executable", "os": "os_pretty"}
    names |= {name: name for name in ("hostname", "pid", "python_verbose", "cwd", "command")}
    known |= {name: runtime[source] for name, source in names.items() if source in runtime}
    known |= {"git_remote": git.get("remote_url"), "git_info": [git.get("branch"), git.get("commit")]} if git else {}
    known |= {"cpu": {"brand": cpu.get("brand"), "cores": cpu.get("logical_count")}} if cpu else {}
    known |= {"memory": memory.get("total")} if memory else {}
    path.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")


def require_shown(folder: str) -> None:
    """Raise when the dashboard has no running experiment for a run that just began; swanlab only logs what went wrong there."""
    try:
        shown = experiment_in(Path(folder).absolute()).status == 0
    except Exception as error:
        raise RuntimeError(f"the dashboard's database in {Path(folder).parent} has no entry for this run: {error}") from error
    if not shown:
        raise RuntimeError(f"the dashboard's experiment for {folder} could not be opened again")

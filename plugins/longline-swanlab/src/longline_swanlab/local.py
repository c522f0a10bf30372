"""Mode local, continued: swanlab itself can only begin a new experiment in the dashboard's database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def continued(folder: str) -> Any:
    """Return the callback that writes to the experiment in `folder` again: its charts go on, steps made again are replaced."""
    from swanlab.deprecated.local import LocalCallbacker

    class Continued(LocalCallbacker):  # type: ignore[misc, unused-ignore]
        def on_run_initialized(self, run_dir: Path, path: str, settings: Any, *args: Any, **kwargs: Any) -> None:
            self._open(Path(run_dir))

        def _open(self, run_dir: Path) -> None:
            from swanboard.db.models import Tag

            home = Path(folder)
            self._run_dir, self._swanlog_dir, self._console_dir = home, home / "logs", home / "console"
            self._media_dir = run_dir / "media"  # where the new part of the run puts its texts
            self.exp = experiment_in(home)
            self.exp.status, self.exp.finish_time = 0, None
            self.exp.save()
            for tag in Tag.select().where(Tag.experiment_id == self.exp.id):
                self._metrics[tag.name] = _read(self._swanlog_dir, tag)
                self._created_columns.add(tag.name)
            self._next_kid = 1 + max((int(metric.kid) for metric in self._metrics.values()), default=0)
            self._dashboard_ready = True

    return Continued()


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


def _read(logs: Path, tag: Any) -> Any:
    """What swanlab would remember of a metric if it had logged it in this process."""
    from swanlab.deprecated.local import _MetricContext

    metric = _MetricContext(tag.name, tag.folder, scalar=tag.type == "line")
    files = sorted((logs / tag.folder).glob("*.log"), key=lambda path: int(path.stem))
    for line in (line for path in files for line in path.read_text(encoding="utf-8").splitlines()):
        entry = json.loads(line)
        metric.add(entry["index"], entry["data"], entry["create_time"], entry.get("more"))
    return metric


def experiment_in(folder: Path) -> Any:
    """The dashboard's experiment whose files are in `folder`; raises an error of swanboard when there is none."""
    import os

    from swanboard.db import connect
    from swanboard.db.models import Experiment

    os.environ["SWANLAB_LOG_DIR"] = str(folder.parent)
    connect(autocreate=True, path=str(folder.parent))
    return Experiment.get(run_id=folder.name)


def require_shown(folder: str) -> None:
    """Raise when the dashboard has no running experiment for a run that just began; swanlab only logs what went wrong there."""
    try:
        shown = experiment_in(Path(folder).absolute()).status == 0
    except Exception as error:
        raise RuntimeError(f"the dashboard's database in {Path(folder).parent} has no entry for this run: {error}") from error
    if not shown:
        raise RuntimeError(f"the dashboard's experiment for {folder} could not be opened again")

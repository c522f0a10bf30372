"""The manifest of a run, run.json: what was asked, what it ran with, what came of it; the main rank writes it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from longline import artifacts
from longline.errors import LonglineError

if TYPE_CHECKING:
    from longline.events import Status
    from longline.plugins.run import State


def write(state: State, status: str, exit_code: int | None) -> None:
    """Write the manifest as things are now."""
    if state.is_main:
        artifacts.write_manifest(state.plan.manifest_path, _content(state, status, exit_code), state.view.mask)


def close(state: State, status: Status, exit_code: int) -> None:
    """Write how the run ended. On a disk that is full, what made the run fail is the better thing to tell."""
    try:
        write(state, status, exit_code)
    except OSError as error:
        if status != "failed":
            raise artifacts.not_written(error, state.plan.manifest_path) from error


def files(state: State) -> list[str]:
    """What plugins write into the run folder, by their own account."""
    return sorted({name for plugin in state.plugins for name in getattr(plugin.instance, "files", ())})


def _error() -> str:
    """What ends the run just now, as the command will say it."""
    error = sys.exception()
    return str(error) if isinstance(error, LonglineError) else f"{type(error).__name__}: {error}"


def _content(state: State, status: str, exit_code: int | None) -> dict[str, Any]:
    run, summary = state.view, state.summary
    return {
        "id": run.id,
        "status": status,
        "exit_code": exit_code,
        "error": _error() if status == "failed" else None,
        "started": run.started,
        "ended": artifacts.now() if exit_code is not None else None,
        "method": run.config.method,
        "model": run.config.model.path,
        "world_size": run.world_size,
        "resumed_from": str(run.resumed_from) if run.resumed_from else None,
        "plan": {fact.name: fact.value for fact in run.plan.facts},
        "versions": artifacts.versions(),
        "plugins": [{"name": p.name, "distribution": p.distribution, "version": p.version} for p in run.plugins],
        "files": files(state),
        "data": summary.data,
        "summary": {
            "steps": summary.steps,
            "epochs": summary.epochs,
            "train_seconds": round(summary.train_seconds, 3),
            "tokens": summary.tokens,
            "from_step": summary.from_step,
            "from_tokens": summary.from_tokens,
            "metrics": summary.metrics,
        },
        "alerts": state.alerts(),
        "stages": state.seconds(),
        "hooks": run.account.as_dict(),
    }

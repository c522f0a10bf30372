"""profile/timings.json: what a run was timed to, one entry for each time that it was started or resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from longline.errors import ConfigError

FOLDER = "profile"
FILE = "timings.json"


def add(run_dir: Path, session: dict[str, Any], *, resumed: bool) -> Path:
    """Write a session, behind the earlier ones of a run that was resumed; returns the file."""
    path = run_dir / FOLDER / FILE
    earlier: list[dict[str, Any]] = []
    if resumed and path.is_file():
        try:
            earlier = read(run_dir)
        except ConfigError:
            earlier = []  # an unreadable file is no reason to lose the new figures too
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        partial.write_text(json.dumps({"sessions": [*earlier, session]}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read(run_dir: Path) -> list[dict[str, Any]]:
    """Return the sessions of a run folder, the oldest first.

    Raises:
        ConfigError: there are none, or the file is not ours.
    """
    path = run_dir / FOLDER / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        hint = "name the plugin profiling under plugins: and run again; a run that still goes on has none yet"
        raise ConfigError(f"{run_dir} holds no timings: there is no {FOLDER}/{FILE}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    sessions = content.get("sessions") if isinstance(content, dict) else None
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
        raise ConfigError(f"{path} holds no timings")
    return sessions

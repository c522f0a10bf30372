"""swanlab.json in the run folder: which experiment a run is, so that a resumed run goes on with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "swanlab.json"


@dataclass(frozen=True, slots=True)
class Memory:
    """`folder` is the experiment's in `log_dir`, `parts` all folders that a run wrote, one for each time it was resumed.

    `mode` is the one that it was really tracked in, `alerts` the last step under which an alert stands.
    """

    id: str
    mode: str
    project: str
    name: str
    folder: str
    log_dir: str
    parts: tuple[str, ...] = ()
    url: str | None = None
    alerts: int = -1

    @classmethod
    def of(cls, answer: Mapping[str, Any], before: Memory | None) -> Memory:
        """What the recorder's answer `started` tells, added to what was known."""
        names = ("id", "mode", "project", "name", "folder", "log_dir", "url")
        parts = before.parts if before else ()
        return cls(
            **{name: answer[name] for name in names}, parts=(*parts, answer["written"]), alerts=before.alerts if before else -1
        )

    def save(self, output_dir: Path, *, alerts: int | None = None) -> None:
        """Write the file; a reader sees the old one or the new one."""
        memory = self if alerts is None else replace(self, alerts=alerts)
        new = output_dir / f".{FILE}"
        new.write_text(json.dumps(asdict(memory), indent=2) + "\n", encoding="utf-8")
        new.replace(output_dir / FILE)


def recall(output_dir: Path) -> Memory | None:
    """What an earlier part of the run wrote, or None when there is nothing that can be read."""
    try:
        content = json.loads((output_dir / FILE).read_text(encoding="utf-8"))
        return Memory(**{**content, "parts": tuple(content["parts"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None

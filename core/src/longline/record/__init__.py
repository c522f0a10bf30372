"""What runs have left, read again: one record a run folder, for whoever lists, compares, judges or draws runs.

Torch-free, and it writes nothing. A folder may be of a run that goes on, that crashed, or of an older release: what is not there is
None or empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from longline import artifacts
from longline.errors import ConfigError

__all__ = ["Record", "records"]

SUMMARY = {"seconds": "train_seconds", "steps": "steps", "tokens": "tokens", "epochs": "epochs"}
"""Short names of what `summary` of a manifest holds beside its metrics."""


@dataclass(frozen=True)
class Record:
    """A run folder: `path`, and `manifest`, what its run.json holds."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Record:
        """Read one run folder. Raises ConfigError when it is none."""
        return cls(path, artifacts.read_manifest(path))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved config; empty where config.yaml is gone or cannot be read."""
        try:
            found = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def summary(self) -> Mapping[str, Any]:
        """Steps, seconds, tokens and metrics at the end; empty for a run that has not come to it."""
        return _mapping(self.manifest.get("summary"))

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The last value of each metric, by the trainer's names."""
        return _mapping(self.summary.get("metrics"))

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The events of log.jsonl in order; a line that is cut, as the last one may be while a run writes it, is left out."""
        return list(_events(self.path / "log.jsonl"))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes on disk of each file and folder that Longline or a plugin wrote here, by name."""
        names = [name for name in (*artifacts.OWN_NAMES, *artifacts.plugin_files(self.path)) if (self.path / name).exists()]
        return {name: _bytes(self.path / name) for name in (*names, *(p.name for p in artifacts.checkpoints(self.path)))}

    def value(self, key: str) -> Any:
        """What a name means in this run, None where it has nothing of that name.

        A name is looked for among metrics (`eval_loss`), the summary (`steps`, `seconds`, `tokens`), the manifest (`status`,
        `plan.dtype`), and the config by its dotted keys (`trainer.learning_rate`), in this order; `run` is the path, `size` bytes
        on disk, `loss` the mean over the training, or the last that was logged.
        """
        own: dict[str, Callable[[], Any]] = {
            "run": lambda: str(self.path),
            "size": lambda: sum(self.sizes.values()),
            "loss": lambda: self.metrics.get("train_loss", self.metrics.get("loss")),
        }
        if key in own:
            return own[key]()
        if key in self.metrics:
            return self.metrics[key]
        places = ((self.summary, SUMMARY.get(key, key)), (self.manifest, key), (self.config, key))
        return next((found for place, name in places if (found := _dotted(place, name)) is not None), None)

    def names(self) -> set[str]:
        """Every name that `value` knows of this run."""
        below = {name for place in (self.manifest, self.config) for name in _leaves(place)}
        return {"run", "size", "loss", *SUMMARY, *self.metrics, *below}


def records(folder: Path, left_out: Callable[[ConfigError], None]) -> list[Record]:
    """Every run in `folder` or below it, newest first; what is no run is passed over, a broken manifest goes to `left_out`."""
    found = []
    for path in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir() and not p.name.startswith((".", "checkpoint-")))]:
        if (path / "run.json").is_file():
            try:
                found.append(Record.of(path))
            except ConfigError as error:
                left_out(error)
    return sorted(found, key=lambda record: str(record.manifest.get("started")), reverse=True)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _dotted(place: Any, key: str) -> Any:
    for name in key.split("."):
        if isinstance(place, list) and name.isdigit() and int(name) < len(place):
            place = place[int(name)]
        elif isinstance(place, Mapping):
            place = place.get(name)
        else:
            return None
    return place


def _leaves(place: Any, before: str = "") -> Iterator[str]:
    if isinstance(place, (Mapping, list)) and place:
        for name, value in place.items() if isinstance(place, Mapping) else enumerate(place):
            yield from _leaves(value, f"{before}{name}.")
    elif before:
        yield before[:-1]


def _bytes(path: Path) -> int:
    """Bytes of a file or of all files of a folder, as they are now: a file that another process has just removed counts nothing."""
    total = 0
    for each in path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,):
        try:
            total += 0 if each.is_dir() else each.lstat().st_size
        except OSError:
            continue
    return total

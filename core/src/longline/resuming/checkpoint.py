"""A checkpoint that a run goes on from: found, seen to be whole, and read, before anything is loaded.

Every checkpoint has a record of what it was made by: the resolved config, the rows, the weights of the models, the versions.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longline.artifacts import checkpoints
from longline.errors import ConfigError
from longline.record import Record
from longline.upstream.transformers import ENGINE, OPTIMIZER, RANDOM, SCHEDULER, STATE_FILE, WEIGHTS

RECORD = "longline.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where it is, the trainer's state in it, and its record, which is empty if it was made without one."""

    path: Path
    state: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The step after which it was made."""
        return int(self.state["global_step"])


def find(run_dir: Path, wanted: str, *, weights_only: bool = False) -> Checkpoint:
    """The checkpoint that `--resume` means: `last`, or a path. With `weights_only` it may lack all but weights and state.

    Raises:
        ConfigError: there is none, or it is not whole.
    """
    path = _place(run_dir, wanted)
    state = _read_json(path / STATE_FILE)
    if type(state.get("global_step")) is not int or not isinstance(state.get("log_history"), list):
        raise _not_whole(path, f"{STATE_FILE} is not the state of a trainer")
    record = _read_json(path / RECORD) if (path / RECORD).exists() else {}
    missing = list(_missing(path, weights_only=weights_only))
    if "weights" in missing:
        raise _not_whole(path, "it has no weights")
    if missing:
        hint = f"--resume {path} --weights-only goes on with its weights: optimizer and schedule start anew"
        raise ConfigError(f"--resume: {path} has no {', '.join(missing)}, so the run would not be the same", hint=hint)
    for file in sorted(path.iterdir()):
        kept = file.suffix in {".pt", ".pth", ".bin"} and not file.name.startswith(WEIGHTS)
        if file.is_file() and not (weights_only and kept) and not _is_whole(file):
            raise _not_whole(path, f"{file.relative_to(path)} is cut or broken")
    found = Checkpoint(path, state, record)
    _refuse_another(run_dir, found)
    return found


def _refuse_another(run_dir: Path, found: Checkpoint) -> None:
    """See that the run in a folder, if there is one, is the checkpoint's: afterwards nobody could tell the two apart.

    A run is known by the losses that it logged. It may be of the folder, have begun from the checkpoint, or have been copied.

    Raises:
        ConfigError: it is another.
    """
    if found.path.resolve().parent == run_dir.resolve() or not (run_dir / "run.json").is_file():
        return
    run = Record.of(run_dir)
    logged, own = _losses(run.log), _losses(found.state["log_history"])
    both = logged.keys() & own.keys()
    if not logged or str(found.path.absolute()) == run.manifest.get("resumed_from"):
        return
    if not both or any(logged[step] != own[step] for step in both):
        hint = (
            "--set output_dir=FOLDER goes on from it in a folder of its own; --resume alone goes on with the run that is there"
        )
        raise ConfigError(f"--resume: {found.path} is of another run than the one in {run_dir}", hint=hint)


def _losses(log: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The finite losses of a log, by step."""
    told = {event.get("step"): event.get("loss") for event in log}
    return {step: loss for step, loss in told.items() if type(step) is int and isinstance(loss, float) and math.isfinite(loss)}


def _place(run_dir: Path, wanted: str) -> Path:
    if wanted == "last":
        found = checkpoints(run_dir)
        if not found:
            hint = "start without --resume; trainer.save_steps sets how often"
            raise ConfigError(f"--resume: {run_dir} has no checkpoint", hint=hint)
        return found[-1]
    path = Path(wanted)
    if not (path / STATE_FILE).is_file():
        hint = "give a checkpoint-N folder, or nothing for the last one"
        raise ConfigError(f"--resume: {wanted} is not a checkpoint", hint=hint)
    return path


def _not_whole(path: Path, why: str) -> ConfigError:
    others = [other for other in checkpoints(path.parent) if other.name != path.name]
    hint = f"--resume {others[-1]} goes on from another" if others else "there is no other one: start without --resume"
    return ConfigError(f"--resume: {path} is no whole checkpoint: {why}", hint=hint)


def _missing(path: Path, *, weights_only: bool) -> Iterator[str]:
    """What a checkpoint needs and has not; the first of the names that a file may have."""
    needed: dict[str, str | tuple[str, ...]] = {"weights": WEIGHTS}
    if not weights_only:
        needed |= {"optimizer": OPTIMIZER, "scheduler": SCHEDULER, "random state": RANDOM}
    names = [item.name for item in path.iterdir()]
    engine = any(name.startswith(ENGINE) for name in names)  # has all but the random state in files of its own
    for what, starts in needed.items():
        if not any(name.startswith(starts) for name in names) and not (engine and what != "random state"):
            yield what


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_whole(path.parent, f"{path.name} is missing, cut or broken") from error
    return found if isinstance(found, dict) else {}


def _is_whole(path: Path) -> bool:
    """Whether a file is as long as its own table of contents says, by its kind; others are believed."""
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length))
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
            return bool(path.stat().st_size == 8 + length + max(ends, default=0))
        if path.suffix in {".pt", ".pth", ".bin"}:
            return zipfile.is_zipfile(path)
        if path.name.endswith(".index.json"):
            shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            return all((path.parent / shard).is_file() for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError):
        return False
    return True


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Put the record into a checkpoint that is being written."""
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

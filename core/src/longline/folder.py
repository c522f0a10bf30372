"""The run folder: claimed by one process, and cleared of an earlier run only when that is wanted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from longline import artifacts
from longline.errors import ConfigError

OWN_NAMES = ("run.json", "config.yaml", "log.jsonl", "model", "merged", "evaluation", artifacts.STAGING)
"""What a run writes into its folder, beside checkpoints and what plugins name in `Plugin.files`; `--overwrite` deletes these and
nothing else."""


@contextmanager
def claim(folder: Path, *, resume: bool, overwrite: bool, files: Sequence[str]) -> Iterator[None]:
    """Hold the folder, for this process alone; it is made when it is not there. `files` are the names that plugins write.

    Raises:
        ConfigError: it cannot be written, is in use, or holds another run and neither `resume` nor `overwrite` is given.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{folder} is in use by another run", hint="wait for it, or choose another output_dir") from None
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        if not resume:
            _clear(folder, overwrite, files)
        yield
    finally:
        lock.release()


def write_config(path: Path, text: str) -> None:
    """Put the resolved config into the folder. Raises ConfigError when that cannot be written."""
    try:
        artifacts.write_atomically(path, text)
    except OSError as error:
        raise _not_writable(path.parent, error) from error


def _not_writable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write the run folder {folder}: {error.strerror or error}", hint="check output_dir")


def _clear(folder: Path, overwrite: bool, files: Sequence[str]) -> None:
    """Delete what an earlier run left, if that is wanted; whatever else lies in the folder stays.

    `files` are those of this run's plugins; the earlier run's may have been others.
    """
    names = {*OWN_NAMES, *files, *plugin_files(folder)}
    taken = [path for path in folder.iterdir() if path.name in names] + artifacts.checkpoints(folder)
    if taken and not overwrite:
        hint = "--resume goes on with it, --overwrite deletes it, or choose another output_dir"
        raise ConfigError(f"{folder} already holds a run", hint=hint)
    try:
        for path in taken:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "config.yaml":  # replaced in place: another rank may be reading it
                path.unlink()
    except OSError as error:
        raise _not_writable(folder, error) from error


def plugin_files(run_dir: Path) -> list[str]:
    """What the plugins of an earlier run in this folder wrote beside its own files; nothing if there is no readable manifest."""
    try:
        listed = json.loads((run_dir / "run.json").read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError, AttributeError):
        return []
    names = listed if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and name == Path(name).name]

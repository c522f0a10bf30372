"""Scans that were made, kept by the content of the weights: the same weights are never measured twice, wherever they lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from longline.config.paths import cache_folder
from longline.errors import ModelError
from longline_spectrum import scan as scans
from longline_spectrum.scan import Row, Scan

if TYPE_CHECKING:
    from longline_spectrum.files import Checkpoint

GLANCE = 2**30
"""Bytes that are read to know a model again, where no more than a look is asked for."""
Told = Callable[[Row, int], None]
"""Is told of each row, and how many were known from an earlier try that was interrupted."""


def folder() -> Path:
    """Where scans are kept."""
    return cache_folder("spectrum")


def path_of(weights: str) -> Path:
    """The file of the scan of weights with this fingerprint; beside it lies its table, as .csv."""
    return folder() / f"{weights}.json"


def fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of all weights by name, 32 hexadecimal digits: of their content, not of files, dates or shards.

    What files came to is remembered with their sizes and dates, so that 15 GB are read once.
    """
    return _remembered(checkpoint) or _hashed(checkpoint)


def _note(checkpoint: Checkpoint) -> Path:
    """Where the fingerprint of these very files is remembered."""
    import xxhash

    files = sorted({tensor.file for tensor in checkpoint.tensors})
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return folder() / "files" / xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())


def _remembered(checkpoint: Checkpoint) -> str | None:
    try:
        text = _note(checkpoint).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if len(text) == 32 and text.isalnum() else None


def _hashed(checkpoint: Checkpoint) -> str:
    import xxhash

    whole = xxhash.xxh3_128()
    digests = {}
    for tensor in sorted(checkpoint.tensors, key=lambda tensor: (tensor.file, tensor.offset)):
        digest = xxhash.xxh3_128()
        for piece in tensor.bytes():
            digest.update(piece)
        digests[tensor.name] = [tensor.stored.name, tensor.shape, digest.hexdigest()]
    whole.update(json.dumps(digests, sort_keys=True).encode())
    with suppress(OSError):  # where nothing can be remembered they are read again
        _write(_note(checkpoint), whole.hexdigest())
    return whole.hexdigest()


def glance(checkpoint: Checkpoint) -> Scan | None:
    """The scan of these weights, if one was made; as far as that can be told without reading for long. Raises ModelError."""
    known = _remembered(checkpoint)
    if known is None and sum(tensor.size for tensor in checkpoint.tensors) <= GLANCE and any(folder().glob("*.json")):
        known = _hashed(checkpoint)
    return _read(path_of(known)) if known else None


def make(checkpoint: Checkpoint, told: Told = lambda row, known: None, *, again: bool = False) -> Scan:
    """The scan of these weights, made now if there is none; other processes that want the same wait for it.

    Raises:
        ModelError: the weights cannot be read, or are quantised; or the scan cannot be kept.
    """
    weights = fingerprint(checkpoint)
    path = path_of(weights)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if again:
                path.with_suffix(".begun").unlink(missing_ok=True)
            found = None if again else _read(path)
            return _made(checkpoint, weights, path, told) if found is None else found
    except OSError as error:
        text = f"cannot keep a scan in {folder()}: {error.strerror or error}"
        raise ModelError(text, hint="LONGLINE_CACHE names another folder for what is kept") from error


def _made(checkpoint: Checkpoint, weights: str, path: Path, told: Told) -> Scan:
    """Measure, and write each row down at once: a scan of hours that is interrupted goes on where it was."""
    begun = path.with_suffix(".begun")
    rows = _rows(begun)
    known = {row.unit: row for row in rows}
    begun.write_text("".join(_line(row) for row in rows), encoding="utf-8")  # without a line that was cut off
    with begun.open("a", encoding="utf-8") as stream:

        def done(row: Row) -> None:
            if row.unit not in known:
                stream.write(_line(row))
                stream.flush()
            told(row, len(known))

        made = scans.make(checkpoint, weights, known.get, done)
    _write(path.with_suffix(".csv"), scans.to_csv(made))
    _write(path, scans.to_json(made))
    begun.unlink()
    return made


def _line(row: Row) -> str:
    return json.dumps([scans.FORMAT, scans.row_to_json(row)]) + "\n"


def _rows(path: Path) -> list[Row]:
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            form, row = json.loads(line)
            if form == scans.FORMAT:
                found.append(scans.row_of_json(row))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return found


def _read(path: Path) -> Scan | None:
    try:
        return scans.of_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)

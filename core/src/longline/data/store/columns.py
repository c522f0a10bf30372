"""Columns of numbers that grow while rows are read: in memory, or in a file, so that memory does not grow with the data."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

AT_ONCE = 1 << 16
"""How many values are looked at before pages are given back: the system maps some more around each."""


@dataclass(slots=True)
class Growing:
    """Values of one type, end to end. With a `path` they are written there, and `whole` maps the file into memory.

    Raises OSError where the file can't be written.
    """

    dtype: DTypeLike
    path: Path | None = None
    _parts: list[NDArray[Any]] = field(default_factory=list)
    _file: Any = None

    def extend(self, values: Any) -> None:
        """Append values."""
        part = np.ascontiguousarray(values, dtype=self.dtype).ravel()
        if self.path is None:
            self._parts.append(part)
            return
        if self._file is None:
            self._file = self.path.open("wb")
        self._file.write(part.data.cast("B") if len(part) else b"")

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def whole(self) -> tuple[NDArray[Any], mmap.mmap | None]:
        """All values, and the mapping that holds them if there is one; nothing may be appended any more."""
        self.close()
        if self.path is None:
            values = np.concatenate([np.zeros(0, dtype=self.dtype), *self._parts])
            # Both copies would be held otherwise, until the builder goes.
            self._parts.clear()
            return values, None
        if not self.path.exists() or not self.path.stat().st_size:
            return np.zeros(0, dtype=self.dtype), None
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype=self.dtype), mapped


def gather(values: NDArray[Any], positions: NDArray[np.int64], mapped: mmap.mmap | None) -> NDArray[Any]:
    """The values at these positions. The memory of pages of a file that were looked at is given back on the way."""
    if mapped is None:
        return values[positions]
    taken = np.empty((len(positions), *values.shape[1:]), dtype=values.dtype)
    for start in range(0, len(positions), AT_ONCE):
        taken[start : start + AT_ONCE] = values[positions[start : start + AT_ONCE]]
        forget(mapped)
    return taken


def forget(mapped: mmap.mmap) -> None:
    """Give back the memory of pages that were looked at; the file still has them."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)

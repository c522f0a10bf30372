"""The weights of a model on disk, read piece by piece: safetensors, whole or in shards, or a GGUF file.

Nothing is mapped into memory, where pages that were read would count as the process's own, and no library of tensors is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from longline.errors import ModelError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

_PIECE = 2**21
"""Weights of a piece: 16 MB as float64."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How numbers are stored: `block` of them in `size` bytes, and how bytes [rows, n * size] become numbers [rows, n * block].
    `decode` is None for what cannot be trained, such as integers of a quantised model.
    """

    name: str
    block: int
    size: int
    decode: Callable[[Bytes], Floats] | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: its name there, and where it lies. The last dimension is stored without gaps."""

    name: str
    file: Path
    offset: int
    shape: tuple[int, ...]
    stored: Stored

    @property
    def weights(self) -> int:
        """How many numbers it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.weights // self.stored.block * self.stored.size

    def matrices(self) -> Iterator[Matrix2D]:
        """Itself, or of a stack of experts [experts, rows, columns] each."""
        rows, columns = self.shape[-2:]
        count = self.shape[0] if len(self.shape) == 3 else 1
        for number in range(count):
            yield Matrix2D(self, (rows, columns), self.offset + number * (self.size // count))

    def bytes(self) -> Iterator[Bytes]:
        """All of it as it is stored, in pieces."""
        with self.file.open("rb", buffering=0) as stream:
            for start in range(0, self.size, _PIECE):
                buffer = np.empty(min(_PIECE, self.size - start), np.uint8)
                read(stream, buffer, self.offset + start, self.file)
                yield buffer


@dataclass(frozen=True, slots=True)
class Matrix2D:
    """One matrix of a tensor."""

    tensor: Tensor
    shape: tuple[int, int]
    offset: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.tensor.name} in {self.tensor.file}"

    def pieces(self) -> Iterator[Floats]:
        """Its numbers [some, short] in float64, C order: rows of a tall matrix, turned columns of a wide one, sideways in order."""
        rows, columns = self.shape
        if rows >= columns:
            for numbers in self._rows():
                yield numbers.astype(np.float64)
            return
        block = self.tensor.stored.block
        width = max(block, _PIECE // rows // block * block)
        for start in range(0, columns, width):
            yield np.ascontiguousarray(self._part(0, rows, start, min(width, columns - start)).T, dtype=np.float64)

    def read(self) -> Floats:
        """All of it, [rows, columns] in float32."""
        whole = np.empty(self.shape, np.float32)
        done = 0
        for numbers in self._rows():
            whole[done : done + len(numbers)] = numbers
            done += len(numbers)
        return whole

    def _rows(self) -> Iterator[Floats]:
        rows, columns = self.shape
        height = max(1, _PIECE // columns)
        for start in range(0, rows, height):
            yield self._part(start, min(height, rows - start), 0, columns)

    def _part(self, row: int, rows: int, column: int, columns: int) -> Floats:
        """Numbers [rows, columns] from a place on; columns begin and end with a block."""
        stored = self.tensor.stored
        if stored.decode is None:
            raise ValueError(f"{self.name} is stored as {stored.name}")
        stride, width = (count // stored.block * stored.size for count in (self.shape[1], columns))
        start = self.offset + row * stride + column // stored.block * stored.size
        buffer = np.empty((rows, width), np.uint8)
        with self.tensor.file.open("rb", buffering=0) as stream:
            if width == stride:
                read(stream, buffer.reshape(-1), start, self.tensor.file)
            else:
                for number in range(rows):
                    read(stream, buffer[number], start + number * stride, self.tensor.file)
        return stored.decode(buffer)


def read(stream: RawIOBase, into: Bytes, offset: int, path: Path) -> None:
    """Fill a buffer with what stands at an offset. Raises ModelError where the file ends before."""
    stream.seek(offset)
    view = memoryview(into)
    while view:
        count = stream.readinto(view)
        if not count:
            raise ModelError(f"{path} ends before its weights do", hint="it is not whole: fetch it again")
        view = view[count:]

"""Bytes of a file as UTF-8, whatever encoding it has; what was read already put back in front; and what is no file made one."""

from __future__ import annotations

import codecs
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO, cast

from longline.errors import DataError

BLOCK = 1 << 20
NOT_UTF8 = "not valid UTF-8; a file in another encoding is read with `encoding:` of its source, such as cp1252 or latin-1"
_SNIFFED = 64
# A mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class _Blocks(io.RawIOBase):
    """A stream of blocks that come from anywhere."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        super().__init__()
        self._blocks, self._rest = iter(blocks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(cast("bytearray", buffer)).cast("B")
        while not len(self._rest):
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """What is left of a stream, a block at a time."""
    while block := stream.read(BLOCK):
        yield block


def behind(head: bytes, stream: IO[bytes]) -> IO[bytes]:
    """A stream with what was read of it put back."""
    return io.BufferedReader(_Blocks(chain([head], blocks(stream))), BLOCK)


def as_utf8(stream: IO[bytes], encoding: str | None, name: str) -> tuple[IO[bytes], str]:
    """The stream in UTF-8 without a mark at its start, and the encoding that it was seen to have, or has by `encoding`.

    What is not UTF-8 and has no mark of another encoding stays as it is, for the reader to find. Raises DataError, while it is
    read, for bytes that the encoding has no letters for.
    """
    head = stream.read(_SNIFFED)
    found = encoding or _sniffed(head)
    stream = behind(head.removeprefix(codecs.BOM_UTF8), stream)
    if codecs.lookup(found).name in ("utf-8", "utf-8-sig", "ascii"):
        return stream, ""
    return io.BufferedReader(_Blocks(_recoded(stream, found, name)), BLOCK), found


def _sniffed(head: bytes) -> str:
    """By its mark, or by the zeros that UTF-16 has beside every letter of ASCII."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and odd > len(head) // 4 > 0 == even:
        return "utf-16-le"
    return "utf-16-be" if len(head) >= 4 and even > len(head) // 4 > 0 == odd else "utf-8"


def _recoded(stream: IO[bytes], encoding: str, name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in blocks(stream):
            yield decoder.decode(block).removeprefix("\ufeff").encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise DataError(f"{name}: can't be read as {encoding}: {error}", hint="say with `encoding:` which it has") from None


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """A stream that can go back: the file itself, or a temporary one of what was decompressed, so that memory does not hold it."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        return stream
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as what reads it
    shutil.copyfileobj(stream, file, BLOCK)
    file.seek(0)
    return cast("IO[bytes]", file)

"""Reads the events of a Chrome trace one by one, so that a trace of gigabytes needs no memory; without torch.

Understands what torch.profiler writes, `{"traceEvents": [...]}`, and the bare list that other tools write, plain or gzipped.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from longline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 20
LONGEST_EVENT = 16 << 20
"""Characters; a longer event is none, but text that is broken."""
_BETWEEN = re.compile(r"[\s,]*")
_LIST = re.compile(r'"traceEvents"\s*:\s*\[')
_KEPT = 200
"""Characters that are kept between chunks: the beginning of the list may be cut in two."""


def events(path: Path, chunk: int = CHUNK) -> Iterator[dict[str, Any]]:
    """Yield every event of a trace; `chunk` characters are read at a time.

    Raises:
        ConfigError: the file cannot be read, is no trace, or is cut off; the message says where.
    """
    try:
        with path.open("rb") as file:
            stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
            yield from _Reader(path, io.TextIOWrapper(stream, encoding="utf-8", errors="replace"), chunk).events()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path} is cut off or damaged: {error}", hint="record it again") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


class _Reader:
    """Holds one chunk of text and what is left of the one before."""

    def __init__(self, path: Path, stream: IO[str], chunk: int) -> None:
        self.path = path
        self.stream = stream
        self.chunk = chunk
        self.text = ""
        self.at = 0
        self.count = 0
        self.ended = False

    def more(self) -> bool:
        """Read a chunk behind what is left; False at the end of the file."""
        chunk = self.stream.read(self.chunk)
        self.text = self.text[self.at :] + chunk
        self.at = 0
        self.ended = not chunk
        return bool(chunk)

    def events(self) -> Iterator[dict[str, Any]]:
        decode = json.JSONDecoder().raw_decode
        self.find_list()
        while self.skip_to_event():
            try:
                event, self.at = decode(self.text, self.at)
            except ValueError:
                if len(self.text) - self.at > LONGEST_EVENT or not self.more():
                    raise self.broken() from None
                continue
            self.count += 1
            if isinstance(event, dict):
                yield event

    def find_list(self) -> None:
        """Move behind the bracket that opens the list of events."""
        while not (begin := self.text.lstrip()):
            if not self.more():
                raise ConfigError(f"{self.path} is empty", hint="record it again")
        if begin[0] == "[":
            self.at = self.text.index("[") + 1
            return
        while begin[0] == "{":
            found = _LIST.search(self.text)
            if found:
                self.at = found.end()
                return
            self.at = max(0, len(self.text) - _KEPT)
            if not self.more():
                break
        raise ConfigError(
            f"{self.path} is no trace: it has no list of traceEvents", hint="give a file that torch.profiler wrote"
        )

    def skip_to_event(self) -> bool:
        """Move to the next event; False behind the last one."""
        while True:
            between = _BETWEEN.match(self.text, self.at)
            assert between is not None  # noqa: S101 - it also matches nothing
            self.at = between.end()
            if self.at < len(self.text):
                return self.text[self.at] != "]"
            if not self.more():
                raise self.broken()

    def broken(self) -> ConfigError:
        what = "is cut off" if self.ended else "is damaged"
        return ConfigError(f"{self.path} {what} after {self.count} events", hint="record it again")

"""Rows of CSV and its like: what stands between fields is seen in the first lines, or said."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from longline.data.decoding import NOT_UTF8, behind
from longline.data.json_rows import REST
from longline.errors import DataError
from longline.text import some

Record = tuple[int, Mapping[str, Any] | str]

HEAD = 1 << 16
"""So many bytes are looked at for what stands between fields."""
HEAD_ROWS = 20
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# The csv module refuses fields above 128 KiB unless it is told otherwise; a conversation in one may be longer.
csv.field_size_limit(2**31 - 1)


def read_table(stream: IO[bytes], name: str, delimiter: str | None, tell: Callable[[str], None]) -> Iterator[Record]:
    """The rows of a table whose first line names the columns. Raises DataError for names that are not told apart."""
    if delimiter is None:
        head = stream.read(HEAD)
        stream = behind(head, stream)
        delimiter = _sniffed(head, name)
        if delimiter != ",":
            tell(f"{DELIMITERS[delimiter]} between fields")
    # What is no UTF-8 is kept as half characters, so that one bad row does not take the others with it.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield line, f"invalid CSV: {error}{REST}"
            return
        start, line = line, reader.line_num + 1
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = fields
            if len(set(header)) != len(header):
                raise DataError(f"{name}:1: two columns have the same name: {some(header)}")
        elif len(fields) != len(header):
            yield start, f"{len(fields)} fields, but the header names {len(header)}"
        elif any(not field.isascii() and _is_broken(field) for field in fields):
            yield start, NOT_UTF8
        else:
            yield start, dict(zip(header, fields, strict=True))


def _is_broken(field: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in field)


def _sniffed(head: bytes, name: str) -> str:
    """Commas if the first lines make a table with them, else what else makes one. Raises DataError where several do."""
    lines = head.decode("utf-8", "replace").splitlines(keepends=True)
    # The last line may be cut off.
    lines = lines[:-1] if len(head) == HEAD else lines
    fitting = [delimiter for delimiter in DELIMITERS if _makes_table(lines, delimiter)]
    if "," in fitting or not fitting:
        return ","
    if len(fitting) > 1:
        what = " and ".join(DELIMITERS[delimiter] for delimiter in fitting)
        raise DataError(
            f"{name}: {what} may stand between fields", hint=f"say which with `delimiter: {fitting[0]!r}` of this source"
        )
    return fitting[0]


def _makes_table(lines: list[str], delimiter: str) -> bool:
    """Whether the first rows have as many fields as the first one, several."""
    try:
        rows = [row for row in itertools.islice(csv.reader(lines, delimiter=delimiter, strict=True), HEAD_ROWS) if row]
    except csv.Error:
        return False
    return bool(rows) and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows) and all(map(str.strip, rows[0]))

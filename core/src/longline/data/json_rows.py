"""Rows of JSON of any shape, a block of the file at a time: lines, arrays, an object that holds one, rows by id."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import IO, Any

from longline.config.sections import ColumnsSection
from longline.data.decoding import BLOCK, NOT_UTF8
from longline.errors import DataError
from longline.text import some

Record = tuple[int, Mapping[str, Any] | str]
Tell = Callable[[str], None]

HOLDERS = ("data", "rows", "records", "items", "examples", "samples", "instances", "entries")
"""Keys under which an object that is no row may hold the rows."""
COLUMNS = {*ColumnsSection.model_fields, "conversations", "conversation", "question", "answer", "response", "query"}
"""Names of columns: an object with one of them is a row."""
ENOUGH = 64
"""An object of so many mappings is one of rows by id, and need not be held whole to know it."""
REST = "; what stands behind it can't be read"
_BLANK = re.compile(r"[ \t\r\n]*")
_NEAR = 16
"""Within so many characters of the end a mistake may come from the end of what was read: of `\\ud83d\\ude00`, `-Infinity`."""


class Broken(Exception):  # noqa: N818 - it is the text that is broken
    """The text is no JSON from here on: (line, what is wrong)."""


# --- lines ----------------------------------------------------------------------------------------


def read_lines(lines: Iterable[tuple[int, str | None]]) -> Iterator[Record]:
    """Rows one a line; a line may also be a list of rows, or the messages of one."""
    for number, line in lines:
        if line is None:
            yield number, NOT_UTF8
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield number, f"invalid JSON: {error.msg if isinstance(error, json.JSONDecodeError) else error}" + _column(error)
        except RecursionError:
            yield number, "invalid JSON: nested too deeply"
        else:
            yield from ((number, row) for row in _rows_of(value))


def _rows_of(value: Any) -> Iterator[Mapping[str, Any] | str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        yield checked(value)
    elif all("role" in item or "from" in item for item in value):
        yield {"messages": value}
    else:
        yield from value


def checked(value: Any) -> Mapping[str, Any] | str:
    """A parsed row, which must be a mapping."""
    return value if isinstance(value, dict) else f"the row is a {type(value).__name__}, not a mapping"


def _column(error: ValueError) -> str:
    return f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""


def is_lines(head: bytes) -> bool:
    """Whether the start of a file is rows one a line, and not one value over several lines, or alone."""
    first, _, rest = head.lstrip().partition(b"\n")
    if not first.startswith(b"{") or not rest.strip():
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def is_spread(head: bytes) -> bool:
    """Whether the first line of a file opens a value that goes on in the next ones."""
    start, _, rest = head.lstrip().partition(b"\n")
    line = start.decode("utf-8", "replace")
    if line.strip() == "{":
        return rest.lstrip().startswith(b'"')
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return line.startswith("[") and (error.pos >= len(line.rstrip()) - 1 or error.msg.startswith("Unterminated"))
    except (ValueError, RecursionError):
        pass
    return False


# --- values ---------------------------------------------------------------------------------------


class Window:
    """The text of a stream, of which no more is held than the value at hand needs."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._decoder, self._json = stream, codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
        self.text, self.at = "", 0
        self._line, self._counted, self._passed = 1, 0, 0
        self._ended = self._invalid = False

    def more(self) -> bool:
        """Read on, as much as is held already, so that a value that needs many turns takes linear time; False at the end."""
        if self._ended:
            return False
        self.here()
        self._passed = self._column(self.at) - 1
        self.text, self.at, self._counted = self.text[self.at :], 0, 0
        block = self._stream.read(max(BLOCK, len(self.text)))
        try:
            self.text += self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode()
            self._invalid = True
        self._ended = self._invalid or not block
        return True

    def here(self) -> int:
        """The line of what comes next."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _column(self, place: int) -> int:
        """The column of a place of the text, from 1."""
        start = self.text.rfind("\n", 0, place) + 1
        return place - start + 1 + (0 if start else self._passed)

    def next(self) -> str:
        """The next character that is not blank, or "" at the end. Raises Broken for what is no UTF-8."""
        while True:
            self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                if self._invalid:
                    raise Broken(self.here(), NOT_UTF8)
                return ""

    def after(self) -> str:
        """The character that is not blank behind the next one, or "" at the end."""
        while True:
            place = _BLANK.match(self.text, self.at + 1).end()  # type: ignore[union-attr]
            if place < len(self.text) or not self.more():
                return self.text[place : place + 1]

    def take(self, character: str) -> bool:
        """Go past a character if it is the next one."""
        found = self.next() == character
        self.at += found
        return found

    def value(self) -> Any:
        """The value that begins here. Raises Broken."""
        while True:
            try:
                found, end = self._json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self.text) - _NEAR or error.msg.startswith("Unterminated")
                if unfinished and self.more():
                    continue
                line = self.here() + self.text.count("\n", self.at, error.pos)
                if unfinished and self._invalid:
                    raise Broken(line, NOT_UTF8) from None
                raise Broken(line, f"invalid JSON: {error.msg} at column {self._column(error.pos)}") from None
            except (ValueError, RecursionError) as error:
                raise Broken(self.here(), f"invalid JSON: {error}") from None
            if end == len(self.text) and not isinstance(found, (str, list, dict)) and self.more():
                continue  # a number may go on
            self.at = end
            return found

    def refuse(self, expected: str) -> Broken:
        """What stands here is not what should."""
        got = repr(self.text[self.at : self.at + 20]) if self.next() else "the end"
        return Broken(self.here(), f"invalid JSON: expected {expected}, got {got}")


def read_values(stream: IO[bytes], name: str, field: str | None, tell: Tell) -> Iterator[Record]:
    """The rows of arrays, or rows one after another, to the end of the text; what comes behind a mistake can't be read.

    The first value may be an object that holds them: as a list under `field` or a usual key, or each under its id.
    """
    window, count = Window(stream), 0
    try:
        while mark := window.next():
            if mark == "[":
                yield from _array(window)
            elif mark == "{" and not count:
                yield from _object(window, name, field, tell)
            else:
                line = window.here()
                yield line, checked(window.value())
            count += 1
    except Broken as error:
        yield error.args[0], f"{error.args[1]}{REST if window.at < len(window.text) else ''}"


def _array(window: Window) -> Iterator[Record]:
    window.take("[")
    if window.take("]"):
        return
    while True:
        window.next()
        line = window.here()
        yield line, checked(window.value())
        if window.take("]"):
            return
        if not window.take(","):
            if not window.next():
                raise Broken(line, "invalid JSON: the array is not closed")
            raise window.refuse("a comma or the end of the array")


def _object(window: Window, name: str, field: str | None, tell: Tell) -> Iterator[Record]:
    """An object that is a row, or holds the rows. Raises DataError where it may be both."""
    line, members = window.here(), dict[str, tuple[int, Any]]()
    held, by_id = "", False
    for key in _keys(window):
        wanted = key == field if field else key in HOLDERS and not held and not COLUMNS & members.keys()
        window.next()
        at = window.here()
        if wanted and window.next() == "[" and window.after() in ("{", "]"):
            held = key
            tell(f"the rows of {key!r}")
            yield from _array(window)
            continue
        members[key] = at, window.value()
        if by_id or (not held and not field and len(members) == ENOUGH and _are_rows(members)):
            by_id = True
            yield from _by_id(members)
            members.clear()
    _refuse_unclear(members.keys(), f"{name}:{line}", held, field)
    if by_id or (not held and _are_rows(members)):
        tell("an object of rows by id")
        yield from _by_id(members)
    elif not held:
        yield line, {key: value for key, (_, value) in members.items()}
        return
    if window.next():
        raise DataError(
            f"{name}:{window.here()}: more values stand behind the object that holds the rows", hint="keep them apart"
        )


def _keys(window: Window) -> Iterator[str]:
    """The keys of an object; the value behind each is read in between."""
    window.take("{")
    if window.take("}"):
        return
    while True:
        if window.next() != '"':
            raise window.refuse("a key in quotes")
        key = window.value()
        if not window.take(":"):
            raise window.refuse("a colon")
        yield key
        if window.take("}"):
            return
        if not window.take(","):
            raise window.refuse("a comma or the end of the object")


def _are_rows(members: Mapping[str, tuple[int, Any]]) -> bool:
    """Whether an object is one of rows by their ids, and no row itself, of messages perhaps."""
    rows = [value for _, value in members.values()]
    mappings = all(isinstance(row, dict) and row and not row.keys() & {"role", "from"} for row in rows)
    return bool(rows) and mappings and not COLUMNS & members.keys()


def _by_id(members: Mapping[str, tuple[int, Any]]) -> Iterator[Record]:
    for key, (line, value) in members.items():
        yield line, {"id": key, **value} if isinstance(value, dict) else checked(value)


def _refuse_unclear(members: Set[str], where: str, held: str, field: str | None) -> None:
    """Raise DataError for an object without the field that was named, or that holds rows and is one itself."""
    if field and not held:
        found = some(sorted(members))
        raise DataError(
            f"{where}: there is no list of rows under {field!r} (found: {found})", hint="look at `field:` of this source"
        )
    if not field and held and COLUMNS & members:
        also = ", ".join(sorted(COLUMNS & members))
        raise DataError(
            f"{where}: the rows may be those of {held!r}, or this is a row itself, with {also}",
            hint=f"say `field: {held}`, or give rows one a line in a .jsonl file",
        )


def of_object(
    value: Mapping[Any, Any], lines: Mapping[str, int], line: int, name: str, field: str | None, tell: Tell
) -> Iterator[Record]:
    """The rows of an object that was read whole from `line` on, as `read_values` has them; `lines` are those of its values."""
    members = {str(key): (lines.get(str(key), line), item) for key, item in value.items()}
    lists = [key for key, (_, item) in members.items() if isinstance(item, list) and all(isinstance(row, dict) for row in item)]
    held = next((key for key in lists if (key == field if field else key in HOLDERS)), "")
    _refuse_unclear(members.keys() - {held}, f"{name}:{line}", held, field)
    if held:
        tell(f"the rows of {held!r}")
        yield from ((members[held][0], row) for row in members[held][1])
    elif _are_rows(members):
        tell("an object of rows by id")
        yield from _by_id(members)
    else:
        yield line, {key: item for key, (_, item) in members.items()}

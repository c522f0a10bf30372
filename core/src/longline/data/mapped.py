"""The names that a source maps by `columns:`: each must be read by the format, and occur in the rows. Else it is set in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from longline.config.sections import ColumnsSection
from longline.errors import DataError, did_you_mean
from longline.text import some

if TYPE_CHECKING:
    from longline.data.values import Row

_INNER = frozenset({"role", "content", "train", "text"})
"""What `columns` names of the mappings inside a row, such as messages."""
_KEYS = dict.fromkeys(ColumnsSection.model_fields)


class WatchedColumns(ColumnsSection):
    """The mapped names of one source as its format gets them, which keep account of what is read: of formats of plugins, too."""

    _read: set[str] = PrivateAttr(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        # Asked for several times with each message, so without pydantic's own slow way to what is private.
        if name in _KEYS:
            object.__getattribute__(self, "__pydantic_private__")["_read"].add(name)
        elif name == "model_dump":
            self._read.update(_KEYS)
        return object.__getattribute__(self, name)

    def read(self) -> list[str]:
        """What was read, in the order of the section."""
        return [name for name in _KEYS if name in self._read]


class MappedNames:
    """What one source maps, by the keys of `columns`; `missing` are those whose names no row had so far."""

    def __init__(self, columns: ColumnsSection, source: str) -> None:
        self._source, self._plain = source, columns
        self._given: dict[str, str] = columns.model_dump(exclude_none=True)
        self._columns: dict[str, None] = {}
        self._inner: dict[str, None] = {}
        self._watched = WatchedColumns(**self._given)
        self.missing = dict(self._given)

    @property
    def names(self) -> ColumnsSection:
        """The names as the format gets them."""
        return self._watched if self._given else self._plain

    def look(self, row: Row) -> None:
        """Look for what is missing in a row."""
        self._columns.update(dict.fromkeys(map(str, row)))
        if _INNER & self.missing.keys():
            self._inner.update(_inner(row))
        for key, name in list(self.missing.items()):
            if name in self._columns or (key in _INNER and name in self._inner):
                del self.missing[key]

    def refuse(self, format_name: str | None = None) -> None:
        """Raise DataError for names that no row has had, and those that the format, once it has read all rows, did not ask for."""
        read = self._watched.read()
        unread = [key for key in self._given if format_name and key not in read]
        texts = [f"columns.{key}: {self._lacks(key, name)}" for key, name in self.missing.items() if key not in unread]
        for key in unread:
            hint = did_you_mean(key, read, f"it reads {', '.join(read) or 'none'}")
            texts.append(f"columns.{key}: the format {format_name!r} does not read it ({hint})")
        if texts:
            raise DataError(f"{self._source}: " + "; ".join(texts), hint="name what is there, or remove it")

    def _lacks(self, key: str, name: str) -> str:
        if key not in _INNER:
            return f"no row has a column {name!r} ({near(name, self._columns)})"
        return f"no row and no message has a key {name!r} ({near(name, self._columns | self._inner)})"


def near(name: str, found: Iterable[str]) -> str:
    """What `name` was likely meant to be, and else all that there is."""
    known = list(found)
    return did_you_mean(name, known, f"found: {some(known)}")


def _inner(row: Row) -> dict[str, None]:
    """The keys of the mappings in a row, and in its lists."""
    several = [value if isinstance(value, list) else [value] for value in row.values()]
    return dict.fromkeys(str(key) for items in several for item in items if isinstance(item, Mapping) for key in item)

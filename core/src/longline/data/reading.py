"""Which columns of its rows a format reads, seen while it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline.data.values import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from longline.data.values import Row


class Watched(dict[str, Any]):
    """A row that remembers which of its columns were asked for; whoever goes through all has read all."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As any mapping, and notes the key."""
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """All keys, which are all read with that."""
        self.read.update(self)
        return super().keys()

    def items(self) -> Any:
        """All items, which are all read with that."""
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        """All values, which are all read with that."""
        self.read.update(self)
        return super().values()


def unread(rows: Iterable[Any]) -> dict[str, str]:
    """The columns that nobody asked for in any of these rows, each with its first value that is neither null nor empty."""
    found: dict[str, str] = {}
    watched = [row for row in rows if isinstance(row, Watched)]
    read = {name for row in watched for name in row.read}
    for row in watched:
        for name, value in dict.items(row):
            if name not in read and value not in (None, "", [], {}):
                found.setdefault(str(name), short(value))
    return found

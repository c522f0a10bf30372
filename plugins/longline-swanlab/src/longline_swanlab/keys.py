"""What metrics and tables are called in SwanLab, which takes fewer names than a log event: none is dropped, no two are one."""

from __future__ import annotations

from typing import Literal

from longline.text import one_line

Kind = Literal["scalar", "media"]

EDGES = " \t\n\r./"
"""What swanlab takes off the beginning and the end of a name, so that `/loss` would be drawn in the chart of `loss`."""
SYSTEM = "__swanlab__."
"""What swanlab's own metrics begin with; it drops others."""
LONGEST = 480
"""Of 512 characters, with room for what keeps two names apart."""


class Keys:
    """The keys of one run. A name keeps the one that it was given first."""

    def __init__(self) -> None:
        self._keys: dict[tuple[Kind, str], str] = {}
        self._taken: set[str] = set()

    def of(self, name: str, kind: Kind) -> str:
        """Return the name as swanlab takes it: control characters written out, in quotes where its edges would be cut off.

        A number is added where another name, or a table of the same name, has that key already.
        """
        key = self._keys.get((kind, name))
        if key is None:
            key = self._keys[kind, name] = self._free(_valid(name))
            self._taken.add(key)
        return key

    def _free(self, key: str) -> str:
        free, number = key, 2
        while free in self._taken:
            free, number = f"{key} ({number})", number + 1
        return free


def _valid(name: str) -> str:
    text = one_line(name)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    return text if text and text.strip(EDGES) == text and not text.startswith(SYSTEM) else f'"{text}"'

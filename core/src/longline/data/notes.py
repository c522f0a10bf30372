"""What is noticed of rows and stops none of them, told once for a source with a count and an example."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class Notice:
    """One thing that was noticed: of how many rows, of which first, an example, and whether it is a warning."""

    rows: int
    where: str
    example: str
    warns: bool


@dataclass(slots=True)
class Notes:
    """What a reader and the chat template notice of the row at hand: for each text an example, and whether it is a warning.

    `allowed` is what of a row may be missing in its text, by the words of `data.allow_dropped`.
    """

    allowed: Collection[str] = ()
    found: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def add(self, text: str, example: str = "", *, warns: bool = True) -> None:
        """Note something; `text` follows 'in so many rows'."""
        self.found.setdefault(text, (example, warns))

    def dropped(self, what: str, text: str, example: str = "") -> None:
        """Note that something of the row does not reach its text; `what` is a word of `data.allow_dropped`."""
        self.add(text, example, warns=what not in self.allowed)

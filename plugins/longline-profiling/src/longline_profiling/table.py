"""Figures as rows and as a table: what was called how often, how long it took, and its share of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline_profiling.recorder import Key, Snapshot, Stat

COLUMNS = ("name", "calls", "total s", "mean ms", "max ms", "failed", "of training")
REST = "the rest of training"


@dataclass(frozen=True, slots=True)
class Row:
    """The spans of one name inside one parent.

    `seconds` is their sum, `share` is of training, 0 to 1, None for what was not
    measured in training; `depth` says how far the name is indented below its parents.
    """

    name: str
    parent: str | None
    calls: int
    seconds: float
    mean: float
    longest: float
    failed: int
    share: float | None
    depth: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rows(
    stats: Mapping[Key, Stat], before: Snapshot | None = None, after: Snapshot | None = None, train_seconds: float = 0.0
) -> list[Row]:
    """Return a row for each name and parent, children below their parent, by the order of time.

    The share is of what lies between the snapshots `before` and `after`, which `train_seconds` passed between.
    """
    made = []
    inside = after.since(before) if before is not None and after is not None and train_seconds > 0 else {}
    for key, depth in _tree(stats):
        stat = stats[key]
        share = inside[key][1] / train_seconds if key in inside else None
        mean = stat.seconds / stat.calls if stat.calls else 0.0
        made.append(Row(key[0], key[1], stat.calls, stat.seconds, mean, stat.longest, stat.failed, share, depth))
    return made


def _tree(stats: Mapping[Key, Stat]) -> Iterator[tuple[Key, int]]:
    """Every key once, children right below the first place of their parent; what has no such place stands at the end."""
    below: dict[str | None, list[Key]] = {}
    for key in stats:
        below.setdefault(key[1], []).append(key)
    done: set[Key] = set()

    def walk(parent: str | None, depth: int) -> Iterator[tuple[Key, int]]:
        for key in below.pop(parent, []):
            done.add(key)
            yield key, depth
            yield from walk(key[0], depth + 1)

    yield from walk(None, 0)
    yield from ((key, 0) for key in stats if key not in done)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as texts, under COLUMNS."""
    share = "-" if row.share is None else f"{100 * row.share:.1f} %"
    name = "  " * row.depth + row.name
    numbers = (f"{row.seconds:.3f}", f"{1000 * row.mean:.3f}", f"{1000 * row.longest:.3f}")
    return (name, str(row.calls), *numbers, str(row.failed or ""), share)


def rest(seconds: float, train_seconds: float) -> tuple[str, ...]:
    """Return the last line, under COLUMNS: what of training no span covered."""
    return (REST, "", f"{seconds:.3f}", "", "", "", f"{100 * seconds / train_seconds:.1f} %")


def text(lines: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Return an aligned table: the first column to the left, all others to the right."""
    widths = [max(len(line[index]) for line in (columns, *lines)) for index in range(len(columns))]
    aligned = []
    for line in (columns, *lines):
        first, *others = line
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        aligned.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(aligned)

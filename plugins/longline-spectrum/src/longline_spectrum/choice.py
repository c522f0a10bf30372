"""Which units are trained: of each kind the layers with the highest ratio, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longline_spectrum.units import Unit, by_kind, chosen

if TYPE_CHECKING:
    from longline_spectrum.config import Threshold
    from longline_spectrum.scan import Row, Scan


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of matrices: all of its layers as measured, the highest ratio first, of which the first `count` are trained."""

    name: str
    rows: tuple[Row, ...]
    count: int

    @property
    def trained(self) -> tuple[Row, ...]:
        """Those that are trained."""
        return self.rows[: self.count]

    @property
    def layers(self) -> str:
        """The layers that are trained, as text."""
        return layers(row.unit.layer for row in self.trained)

    @property
    def trains(self) -> str:
        """`15 of 30 layers: 0, 3-5 ...`."""
        return f"{self.count} of {len(self.rows)} layers: {self.layers}"

    @property
    def weights(self) -> int:
        """How many weights are trained."""
        return sum(row.unit.weights for row in self.trained)

    def why(self, threshold: Threshold) -> str:
        """The ratios that were decisive."""
        ratios = [f"{row.by[threshold].snr:.3g}" for row in self.rows]
        if self.count in (0, len(self.rows)):
            return f"{ratios[0]} to {ratios[-1]}"
        return f"{ratios[0]} to {ratios[self.count - 1]}, the rest {ratios[self.count]} to {ratios[-1]}"


def count_of(number: int, fraction: float) -> int:
    """How many of so many layers a fraction is, rounded down: 0.29 of 100 are 29, whatever floating point makes of it."""
    return int(number * fraction + 1e-9)


def pick(scan: Scan, fraction: float, threshold: Threshold = "edge", kinds: Sequence[str] = ()) -> list[Kind]:
    """The kinds that are named, or all, each with the layers that are trained."""
    by_unit = {row.unit: row for row in scan.rows}
    taken, _ = chosen(by_kind(by_unit), kinds)
    return [
        Kind(name, _ranked([by_unit[unit] for unit in members], threshold), count_of(len(members), fraction))
        for name, members in taken.items()
    ]


def _ranked(rows: Iterable[Row], threshold: Threshold) -> tuple[Row, ...]:
    """The highest ratio first, of equal ones the lowest layer."""
    return tuple(sorted(rows, key=lambda row: (-row.by[threshold].snr, row.unit.layer)))


def layers(numbers: Iterable[int]) -> str:
    """Numbers as people write them: 0, 3-5, 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "none"


def expected(several: Mapping[str, Sequence[Unit]], fraction: float) -> int:
    """How many weights will be trained, before it is known of which layers: those of a kind are of one size, as a rule."""
    found = 0.0
    for members in several.values():
        found += sum(unit.weights for unit in members) / len(members) * count_of(len(members), fraction)
    return round(found)


def short(number: float) -> str:
    """A number of weights as people say it: 1.23B, 53.1M, 12.4k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}" if number < 100 * size else f"{number / size:.0f}{letter}"
    return str(round(number))


def share(trained: int, total: int) -> str:
    """`53.1M of 134.5M weights (39 %)`."""
    return f"{short(trained)} of {short(total)} weights ({trained / total:.0%})"

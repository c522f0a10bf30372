"""Signal and noise among the singular values of a matrix: where Marchenko and Pastur say that noise ends.

The singular values of a matrix of independent noise fill an interval whose upper end is known; what lies above it is signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from longline_spectrum.config import Threshold

THRESHOLDS: tuple[Threshold, ...] = get_args(Threshold)
Values = np.ndarray[Any, np.dtype[np.float64]]

_IQR = 1.349
"""The interquartile range of a normal distribution, in standard deviations."""
_POINTS = 20_000


@dataclass(frozen=True, slots=True)
class Measure:
    """What one threshold says of a matrix: the noise of an entry, the threshold, how many singular values lie above it, their sum,
    that of the others, and the ratio by which matrices are ranked.
    """

    sigma: float
    threshold: float
    signals: float
    signal: float
    noise: float
    snr: float

    @classmethod
    def mean(cls, several: Iterable[Measure]) -> Measure:
        """The mean of each number: what is told of the experts of a layer, which are trained together."""
        return cls(*(float(value) for value in np.mean([astuple(one) for one in several], axis=0)))


def measure(values: Values, rows: int, columns: int, threshold: Threshold = "edge") -> Measure:
    """Tell signal from noise.

    `values`: all min(rows, columns) singular values of a matrix of rows x columns, the largest first, float64.
    """
    sigma, limit = _edge(values, rows, columns) if threshold == "edge" else _published(values, rows, columns)
    above = values > limit
    signal, noise = float(values[above].sum()), float(values[~above].sum())
    # What float32 cannot tell from zero is counted as noise of that size: a matrix of low rank has a ratio, if a large one.
    smallest = float(values[0]) * max(rows, columns) * float(np.finfo(np.float32).eps)
    snr = signal / max(noise, smallest) if signal else 0.0
    if threshold == "published" and signal:
        snr /= float(values[0])
    return Measure(sigma, limit, float(above.sum()), signal, noise, snr)


def _edge(values: Values, rows: int, columns: int) -> tuple[float, float]:
    """Sigma by the median, which signal of few directions hardly moves, and the largest singular value of such noise."""
    long, short = max(rows, columns), min(rows, columns)
    sigma = float(np.median(values)) / float(np.sqrt(long * median(short / long)))
    return sigma, sigma * float(np.sqrt(rows) + np.sqrt(columns))


def _published(values: Values, rows: int, columns: int) -> tuple[float, float]:
    """As the paper's own code: the spread of the singular values is taken for the sigma of normal numbers, sizes enter by their
    ratio alone. The result lies within the noise.
    """
    low, high = np.quantile(values, (0.25, 0.75))
    sigma = float(high - low) / _IQR
    return sigma, sigma * (1 + float(np.sqrt(min(rows, columns) / max(rows, columns))))


@lru_cache(maxsize=256)
def median(ratio: float) -> float:
    """The median of the Marchenko-Pastur distribution of eigenvalues with variance 1 and `ratio` = short / long, in (0, 1]."""
    # With x = 1 + ratio + 2 sqrt(ratio) cos(angle) the density, whose ends are steep, becomes a smooth function of the angle.
    step = np.pi / _POINTS
    angle = (np.arange(_POINTS) + 0.5) * step
    x = 1 + ratio + 2 * np.sqrt(ratio) * np.cos(angle)
    above = np.cumsum(2 * np.sin(angle) ** 2 / (np.pi * x)) * step  # the probability of more than x, at the end of each step
    end = np.interp(0.5, above, angle + step / 2)
    return float(1 + ratio + 2 * np.sqrt(ratio) * np.cos(end))

"""Means and slopes of correlated numbers, with honest errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]

MANY = 64  # blocks of a series from which their spread is known well enough


@dataclass(frozen=True)
class Mean:
    """The mean of a series, in its unit.

    Attributes:
        mean: over all values.
        error: standard error of the mean, correlations counted; None for less than two values.
        deviation: standard deviation of the values.
        samples: how many independent values would be as good: values over the statistical inefficiency.
    """

    mean: float
    error: float | None
    deviation: float
    samples: float

    @classmethod
    def of(cls, values: F8) -> Mean:
        """Return the mean of a series [F] in the order of time."""
        deviation, samples = float(values.std()), len(values) / inefficiency(values)
        error = deviation / np.sqrt(max(samples - 1.0, 1.0)) if len(values) > 1 else None
        return cls(float(values.mean()), None if error is None else float(error), deviation, samples)


@dataclass(frozen=True)
class Slope:
    """A straight line through a series.

    Attributes:
        slope: unit of the values over that of the abscissa.
        error: standard error of it, correlations of the residuals counted; None for less than three values.
        start: value of the line at the first abscissa.
    """

    slope: float
    error: float | None
    start: float

    @classmethod
    def of(cls, x: F8, y: F8) -> Slope:
        """Fit values [F], F from 2, at different abscissae [F] by least squares."""
        dx = x - x.mean()
        slope = float(dx @ y / (dx @ dx))
        start = float(y.mean() + slope * dx[0])
        rest = y - y.mean() - slope * dx
        if len(x) < 3:
            return cls(slope, None, start)
        variance = float(rest @ rest) / (len(x) - 2) * inefficiency(rest)
        return cls(slope, float(np.sqrt(variance / (dx @ dx))), start)


def inefficiency(values: F8) -> float:
    """Return how many values in a row count as one: g = 1 + 2 sum_t (1 - t/F) rho(t), from 1 to F.

    The sum over the autocorrelation function rho ends where sums of neighbouring pairs of it are no longer positive
    (Geyer, Statist. Sci. 7, 473 (1992)). A fast oscillation ends it before a slow change of smaller size is seen, so
    that means of blocks of 2, 4, 8... values are taken as well (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989)):
    the largest result counts, each less twice the error that so many blocks leave.

    Args:
        values: [F].
    """
    if not _varies(values):
        return 1.0
    found, square, length = _correlated(values), float(values.var()), 2
    while (blocks := len(values) // length) >= MANY:
        means = values[: blocks * length].reshape(blocks, length).mean(axis=1)
        share = length * float(means.var()) / square
        found = max(found, share * _correlated(means) * (1.0 - 2.0 * float(np.sqrt(2.0 / blocks))))
        length *= 2
    return min(found, float(len(values)))


def _varies(values: F8) -> bool:
    """Return whether values [F] differ by more than the rounding of their mean."""
    return float(values.var()) > (1e-15 * float(np.abs(values).max())) ** 2


def _correlated(values: F8) -> float:
    """Return 1 + 2 sum_t (1 - t/F) rho(t) to Geyer's end, of values [F]; 1 where they do not vary."""
    count, moved = len(values), values - values.mean()
    square = float(moved @ moved)
    if count < 4 or not _varies(values):
        return 1.0
    spectrum = np.fft.rfft(moved, 2 * count)
    rho = np.fft.irfft(np.abs(spectrum) ** 2)[:count] / square  # already holds the factor 1 - t/F
    pairs = rho[: count // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0.0)
    last = int(ends[0]) if len(ends) else len(pairs)
    return float(np.clip(2.0 * pairs[:last].sum() - 1.0, 1.0, count))

"""How far atoms go: coordinates without jumps across the box, mean square displacements, diffusion coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.analysis.pairs import widths
from mlip.analysis.statistics import Slope
from mlip.analysis.trajectory import Motion
from mlip.elements import SYMBOLS

F8 = NDArray[np.float64]

BLOCKS = 5
WINDOW = (0.1, 0.5)  # of a block: the lags that the line is fitted to
FEWEST = 50  # frames for a diffusion coefficient
LINEAR = (0.7, 1.3)  # exponents of displacements that are called diffusive
CHUNK = 4_000_000  # numbers that are transformed at a time
CM2_PER_S = 1e-4  # in one A^2/ps


@dataclass(frozen=True)
class Displacement:
    """The mean square displacement of the atoms of one element, relative to the centre of mass of all.

    Attributes:
        element: symbol.
        lag: [K] ps, from 0; up to half of the run.
        square: [K] A^2, over atoms and origins.
        exponent: of the lag that the displacements grow with: 1 for diffusion, 0 in a solid; None for a short run.
        diffusion: coefficient, A^2/ps, of three dimensions, without a correction for the size of the box; None where
            the run is too short, not periodic, of unknown times, or not diffusive.
        error: standard error of it over five blocks.
    """

    element: str
    lag: F8
    square: F8
    exponent: float | None
    diffusion: float | None
    error: float | None

    def numbers(self) -> dict[str, Any]:
        """Return the coefficient, also in cm^2/s, and the exponent, JSON-compatible."""
        known = self.diffusion is not None and self.error is not None
        return {"element": self.element, "exponent": self.exponent, "diffusion_a2_per_ps": self.diffusion,
                "diffusion_error_a2_per_ps": self.error,
                "diffusion_cm2_per_s": CM2_PER_S * self.diffusion if known else None,  # type: ignore[operator]
                "diffusion_error_cm2_per_s": CM2_PER_S * self.error if known else None}  # type: ignore[operator]


@dataclass(frozen=True)
class Unwrapped:
    """Positions without jumps.

    Attributes:
        positions: [F, N, 3] A, float32, relative to the centre of mass.
        longest: farthest that an atom went between two frames, A.
        allowed: half of the smallest width of the box, A: farther steps cannot be told from those of an image; infinite
            without periodicity.
    """

    positions: NDArray[np.float32]
    longest: float
    allowed: float

    @property
    def safe(self) -> bool:
        """Whether all steps are so short that longer ones, taken for those of an image, are not to be expected."""
        return self.longest < 0.8 * self.allowed


def unwrapped(motion: Motion) -> Unwrapped:
    """Return continuous positions: the sums of the shortest steps from frame to frame.

    Atoms are brought into the box first, and each step is the shortest image in the box after it, so that a box that
    changes does not carry atoms that left it (J. Chem. Theory Comput. 16, 6806 (2020)). Right as long as no atom goes
    farther than half of the smallest width of the box between two frames. Directions that are not periodic
    have a long box, in which no atom goes so far.
    """
    r, cells = 10.0 * motion.frames.xyz, motion.cells
    allowed = np.inf if cells is None else 0.5 * float(widths(cells).min())
    inverse = None if cells is None else np.linalg.inv(cells)
    weights = motion.masses / motion.masses.sum() if motion.masses.any() else np.full(r.shape[1], 1.0 / r.shape[1])
    out, longest, now = np.empty_like(r), 0.0, r[0].astype(np.float64)
    out[0] = now - weights @ now
    last = now if cells is None else _inside(now, cells[0], inverse[0])  # type: ignore[index]
    for f in range(1, len(r)):
        here = r[f].astype(np.float64)
        if cells is not None and inverse is not None:
            here = _inside(here, cells[f], inverse[f])
            step = here - last
            step -= np.rint(step @ inverse[f]) @ cells[f]
        else:
            step = here - last
        last, now = here, now + step
        longest = max(longest, float(np.square(step).sum(axis=1).max()))
        out[f] = now - weights @ now
    return Unwrapped(out, float(np.sqrt(longest)), allowed)


def _inside(positions: F8, cell: F8, inverse: F8) -> F8:
    fractions = positions @ inverse
    return np.asarray((fractions - np.floor(fractions)) @ cell)


def displacements(motion: Motion, path: Unwrapped) -> list[Displacement]:
    """Return the mean square displacements of the elements, most atoms first; none for one frame or one atom."""
    if len(path.positions) < 2 or len(motion.numbers) < 2:
        return []
    interval = float(motion.time[1] - motion.time[0])
    kinds = [int(z) for z in np.unique(motion.numbers) if z]
    usable = motion.timed and all(motion.periodic) and path.safe
    return [_displacement(path.positions[:, motion.numbers == z], interval, SYMBOLS[z], usable)
            for z in sorted(kinds, key=lambda z: -int((motion.numbers == z).sum()))]


def _displacement(positions: NDArray[np.float32], interval: float, element: str, usable: bool) -> Displacement:
    count = len(positions)
    square = mean_square(positions)[: count // 2 + 1]
    lag: F8 = interval * np.arange(len(square), dtype=np.float64)
    exponent = diffusion = error = None
    if count >= FEWEST:
        block = count // BLOCKS
        window = slice(max(1, round(WINDOW[0] * block)), round(WINDOW[1] * block) + 1)
        if (square[window] > 0).all():
            exponent = Slope.of(np.log(lag[window]), np.log(square[window])).slope
        if usable and exponent is not None and LINEAR[0] <= exponent <= LINEAR[1]:
            slopes = [Slope.of(lag[window], mean_square(positions[k * block:(k + 1) * block])[window]).slope
                      for k in range(BLOCKS)]
            diffusion = Slope.of(lag[window], square[window]).slope / 6.0
            error = float(np.std(slopes, ddof=1)) / 6.0 / float(np.sqrt(BLOCKS))
    return Displacement(element, lag, square, exponent, diffusion, error)


def mean_square(positions: NDArray[np.float32]) -> F8:
    """Return the mean square displacement [F] of positions [F, M, 3] for every lag, over all origins.

    |r(t + m) - r(t)|^2 is taken apart into squares, summed one after the other, and a correlation, by Fourier
    transforms (Calandrini et al., Collection SFN 12, 201 (2011)).
    """
    count, atoms = positions.shape[:2]
    correlation, squares = np.zeros(count), np.zeros(count)
    size = 1 << (2 * count - 1).bit_length()
    for first in range(0, atoms, step := max(1, CHUNK // (3 * size))):
        r = positions[:, first : first + step].astype(np.float64)
        r -= r.mean(axis=0)
        spectrum = np.fft.rfft(r.reshape(count, -1), size, axis=0)
        correlation += np.fft.irfft(np.square(np.abs(spectrum)).sum(axis=1), size)[:count]
        squares += np.square(r).sum(axis=(1, 2))
    origins = count - np.arange(count)
    head, tail = np.cumsum(squares), np.cumsum(squares[::-1])
    both = head[::-1] + tail[::-1]  # of lag m: the first F - m and the last F - m
    return np.asarray(np.maximum(both - 2.0 * correlation, 0.0) / (origins * atoms))

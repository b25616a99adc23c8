"""The grid of bins: how wide, how many, and how far a neighbour can be."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mlip.neighbors.jit import compiled, inner
from mlip.neighbors.lattice import F8, I8, Lattice

EPS = 2.3e-16  # a little more than one rounding of float64
ATOMS_PER_BIN = 20.0  # about the quickest
MOST_BINS = 1 << 20  # along one direction, so that the number of a bin has 60 bits
MOST_SHIFT = 1e9  # int32 holds the difference of two of these
MOST_IMAGES = 1e8

GOOD, NOT_FINITE, BAD_LATTICE, SHIFT_OVERFLOW, TOO_MANY_IMAGES = 0, 1, 2, 3, 4  # what came of a search


class Grid(NamedTuple):
    """The bins and the limits of the search.

    Attributes:
        bins: [3] int64, number of bins along each direction.
        reach: [3] int64, how many bins away a neighbour can be.
        origin: [3] fractional coordinates (A where there is no periodicity) where bins start.
        density: [3] bins per fractional unit (per A).
        limits: [3] A^2: below the first a squared distance of wrapped positions means a neighbour,
            from the second on it means none; the third is cutoff^2, for the exact decision between.
    """

    bins: I8
    reach: I8
    origin: F8
    density: F8
    limits: F8


@inner
def coordinate(positions: F8, i: int, dual: F8, k: int) -> float:
    """Return the coordinate of an atom along lattice vector k, in units of that vector."""
    return float(positions[i, 0] * dual[0, k] + positions[i, 1] * dual[1, k] + positions[i, 2] * dual[2, k])


@inner
def measure(positions: F8, dual: F8, span: F8) -> None:
    """Write [7]: least and largest coordinates of all atoms, and the largest |component| in A.

    Where positions are not finite, the last is not.
    """
    size, wrong = 0.0, 0.0
    for k in range(3):
        low, high = math.inf, -math.inf
        for i in range(len(positions)):
            f = coordinate(positions, i, dual, k)
            low, high = min(low, f), max(high, f)
            size = max(size, abs(positions[i, k]))
            wrong += positions[i, k] - positions[i, k]  # NaN where infinite or NaN
        span[k], span[k + 3] = low, high
    span[6] = size + wrong


@inner
def height(lattice: Lattice, k: int) -> float:
    """Return the distance in A of the lattice planes that vector k joins."""
    dual = lattice.dual
    return 1.0 / math.sqrt(dual[0, k] ** 2 + dual[1, k] ** 2 + dual[2, k] ** 2)


@inner
def wraps(lattice: Lattice, span: F8, cutoff: float, k: int) -> float:
    """Return a bound on the multiples of the reduced vector k between two neighbours."""
    if not lattice.periodic[k]:
        return 0.0
    return float(2.0 * max(abs(span[k]), abs(span[k + 3])) + cutoff / height(lattice, k) + 4.0)


@inner
def largest_shift(lattice: Lattice, span: F8, cutoff: float) -> float:
    """Return a bound on the components of the shifts."""
    largest = 0.0
    for c in range(3):
        total = 0.0
        for k in range(3):
            total += wraps(lattice, span, cutoff, k) * (abs(lattice.whole[k, c]) + 1.0)
        largest = max(largest, total)
    return largest


@inner
def rounding(lattice: Lattice, span: F8, cutoff: float) -> float:
    """Return a bound in A on the errors by rounding in the distance of two wrapped atoms."""
    scale = span[6] + cutoff
    for k in range(3):
        times = wraps(lattice, span, cutoff, k)
        for d in range(3):
            scale += times * abs(lattice.basis[k, d])
            for c in range(3):
                scale += times * abs(lattice.whole[k, c]) * abs(lattice.user[c, d])
    return float(16.0 * EPS * scale)


@inner
def bin_width(lattice: Lattice, span: F8, number: int, cutoff: float, outer: float) -> float:
    """Return the width of the bins in A: `outer`, or a half or third of it where atoms are dense."""
    volume = 1.0
    for k in range(3):
        length = height(lattice, k) if lattice.periodic[k] else span[k + 3] - span[k]
        volume *= max(length, 0.5 * cutoff)
    width = max((ATOMS_PER_BIN * volume / number) ** (1.0 / 3.0), cutoff / 3.0)
    return outer if width >= outer else outer / max(1.0, math.floor(outer / width + 0.3))


@compiled
def make_grid(lattice: Lattice, span: F8, number: int, cutoff: float) -> tuple[Grid, int]:
    """Choose the bins.

    Args:
        lattice: of the structure.
        span: [7] from `measure`.
        number: of atoms, N > 0.
        cutoff: A.

    Returns:
        The grid and what came of it.
    """
    grid = Grid(np.ones(3, dtype=np.int64), np.zeros(3, dtype=np.int64), np.zeros(3), np.ones(3), np.zeros(3))
    error = rounding(lattice, span, cutoff)
    outer = cutoff * (1 + 1e-9) + error
    width = bin_width(lattice, span, number, cutoff, outer)
    images = 1.0
    most = min(4.0 * number + 64.0, MOST_BINS)
    for k in range(3):
        if lattice.periodic[k]:
            h = height(lattice, k)
            grid.bins[k] = max(1, math.floor(min(h / width, most)))
            grid.density[k] = grid.bins[k]
            grid.reach[k] = math.ceil(min(outer * grid.bins[k] / h, MOST_SHIFT) * (1 - 1e-10))
            images *= 2.0 * outer / h + 1.0
        else:
            length = span[k + 3] - span[k]
            grid.bins[k] = math.floor(min(length / width, most)) + 1
            grid.origin[k] = span[k]
            grid.density[k] = 1.0 / max(width, length / most)
            grid.reach[k] = min(math.ceil(outer * grid.density[k] * (1 - 1e-10)), grid.bins[k])
    tolerance = 8.0 * (cutoff + error) * error + 8.0 * EPS * cutoff * cutoff
    grid.limits[0] = cutoff * cutoff - tolerance
    grid.limits[1] = cutoff * cutoff + tolerance
    grid.limits[2] = cutoff * cutoff
    if not images <= MOST_IMAGES:
        return grid, TOO_MANY_IMAGES
    return grid, GOOD if largest_shift(lattice, span, cutoff) <= MOST_SHIFT else SHIFT_OVERFLOW

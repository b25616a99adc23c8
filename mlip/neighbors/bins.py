"""Atoms sorted into bins: the grid, and the atoms in the order of their bins."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.neighbors.jit import compiled
from mlip.neighbors.lattice import F8, I8, LARGEST, Lattice

EPS = 2.3e-16
ATOMS_PER_BIN = 10.0  # about which the search is quickest
MOST_BINS = 1 << 20  # along one direction, so that a bin has a number of 60 bits
MOST_IMAGES = 1e8


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


class Sorted(NamedTuple):
    """N atoms in the order of their bins.

    Attributes:
        x, y, z: [N] A, positions wrapped into the cell.
        atom: [N] uint32, index of the atom.
        wrap: [N, 3] int32, whole lattice vectors of the cell subtracted from its position; [0, 3] if none.
        bin: [M] int64, ascending numbers of the occupied bins; [0] if `start` holds all bins.
        start: [M + 1] int64, first atom of each bin.
    """

    x: F8
    y: F8
    z: F8
    atom: NDArray[np.uint32]
    wrap: NDArray[np.int32]
    bin: I8
    start: I8


@compiled
def coordinate(r: F8, dual: F8, k: int) -> float:
    """Return the coordinate of a point along lattice vector k, in its units."""
    return float(r[0] * dual[0, k] + r[1] * dual[1, k] + r[2] * dual[2, k])


@compiled
def extent(positions: F8, dual: F8, first: int, last: int) -> F8:
    """Return [7]: least and largest coordinates of the atoms first..last-1, and the largest |component|.

    Positions that are not finite give a last value that is not.
    """
    out = np.empty(7)
    out[:3] = math.inf
    out[3:6] = -math.inf
    size = 0.0
    wrong = 0.0
    for i in range(first, last):
        for k in range(3):
            f = coordinate(positions[i], dual, k)
            out[k] = min(out[k], f)
            out[k + 3] = max(out[k + 3], f)
            size = max(size, abs(positions[i, k]))
            wrong += positions[i, k] - positions[i, k]  # NaN where infinite or NaN
    out[6] = size + wrong
    return out


@compiled
def grid(lattice: Lattice, span: F8, number: int, cutoff: float) -> tuple[Grid, int]:
    """Choose the bins.

    Args:
        lattice: of the structure.
        span: [7] from `extent`.
        number: of atoms, N.
        cutoff: A.

    Returns:
        The grid and a status: 0 good, 1 shifts overflow, 2 too many images.
    """
    bins, reach = np.ones(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    origin, density, limits = np.zeros(3), np.ones(3), np.zeros(3)
    result = Grid(bins, reach, origin, density, limits)
    error = rounding(lattice, span, cutoff)
    outer = cutoff * (1 + 1e-9) + error
    height, length = np.empty(3), np.empty(3)
    volume = 1.0
    for k in range(3):
        column = lattice.dual[:, k]
        height[k] = 1.0 / math.sqrt(column[0] ** 2 + column[1] ** 2 + column[2] ** 2)
        length[k] = height[k] if lattice.periodic[k] else span[k + 3] - span[k]
        volume *= max(length[k], 0.5 * cutoff)
    width = min(max((ATOMS_PER_BIN * volume / number) ** (1.0 / 3.0), cutoff / 3.0), outer)
    fine = max(1, np.int64(outer / width + 0.3))
    width = outer / fine
    images = 1.0
    for k in range(3):
        most = min(length[k] / width, MOST_BINS)
        if lattice.periodic[k]:
            bins[k] = max(1, math.floor(most))
            density[k] = bins[k]
            images *= 2.0 * outer / height[k] + 1.0
            reach[k] = math.ceil(min(outer * bins[k] / height[k], LARGEST) * (1 - 1e-10))
        else:
            bins[k] = math.floor(most) + 1
            origin[k] = span[k]
            density[k] = 1.0 / max(width, length[k] / MOST_BINS)
            reach[k] = min(math.ceil(outer * density[k] * (1 - 1e-10)), bins[k])
    if images > MOST_IMAGES:
        return result, 2
    tolerance = 8.0 * (cutoff + error) * error + 8.0 * EPS * cutoff * cutoff
    limits[0] = cutoff * cutoff - tolerance
    limits[1] = cutoff * cutoff + tolerance
    limits[2] = cutoff * cutoff
    return result, 1 if largest_shift(lattice, span, cutoff) > LARGEST else 0


@compiled
def wraps(lattice: Lattice, span: F8, cutoff: float, k: int) -> float:
    """Return a bound on the lattice vectors k of the reduced basis between two neighbours."""
    if not lattice.periodic[k]:
        return 0.0
    column = lattice.dual[:, k]
    images = cutoff * math.sqrt(column[0] ** 2 + column[1] ** 2 + column[2] ** 2)
    return float(2.0 * max(abs(span[k]), abs(span[k + 3])) + images + 4.0)


@compiled
def largest_shift(lattice: Lattice, span: F8, cutoff: float) -> float:
    """Return a bound on the components of the shifts."""
    largest = 0.0
    for c in range(3):
        total = 0.0
        for k in range(3):
            total += wraps(lattice, span, cutoff, k) * (abs(lattice.whole[k, c]) + 1.0)
        largest = max(largest, total)
    return largest


@compiled
def rounding(lattice: Lattice, span: F8, cutoff: float) -> float:
    """Return a bound in A on the rounding error of the distance of two wrapped atoms."""
    scale = span[6] + cutoff
    for k in range(3):
        times = wraps(lattice, span, cutoff, k)
        for d in range(3):
            scale += times * abs(lattice.basis[k, d])
            for c in range(3):
                scale += times * abs(lattice.whole[k, c]) * abs(lattice.user[c, d])
    return 16.0 * EPS * scale


@compiled
def assign(positions: F8, lattice: Lattice, grid: Grid, first: int, last: int, key: I8,
           wrap: NDArray[np.int32]) -> bool:
    """Write bin number and wrapping of the atoms first..last-1; return whether any was wrapped."""
    any_wrapped = False
    cell = np.empty(3, dtype=np.int64)
    for i in range(first, last):
        for k in range(3):
            f = coordinate(positions[i], lattice.dual, k)
            if lattice.periodic[k]:
                turns = math.floor(f)
                f -= turns
                wrap[i, k] = turns
                any_wrapped |= turns != 0
            else:
                wrap[i, k] = 0
            cell[k] = min(max(np.int64((f - grid.origin[k]) * grid.density[k]), 0), grid.bins[k] - 1)
        key[i] = (cell[2] * grid.bins[1] + cell[1]) * grid.bins[0] + cell[0]
    return any_wrapped


@compiled
def counting_sort(key: I8, bins: int) -> tuple[I8, I8]:
    """Return the atoms in the order of their bins, and the first of each bin: [N], [bins + 1]."""
    start = np.zeros(bins + 1, dtype=np.int64)
    for i in range(len(key)):
        start[key[i] + 1] += 1
    for b in range(bins):
        start[b + 1] += start[b]
    order = np.empty(len(key), dtype=np.uint32)
    place = start[:-1].copy()
    for i in range(len(key)):
        b = key[i]
        order[place[b]] = i
        place[b] += 1
    return order, start


@compiled
def sparse_sort(key: I8) -> tuple[I8, I8, I8]:
    """Return the atoms in the order of their bins, the occupied bins, and the first atom of each."""
    order = np.argsort(key, kind="mergesort").astype(np.uint32)
    number = 1
    for q in range(1, len(key)):
        number += key[order[q]] != key[order[q - 1]]
    occupied, start = np.empty(number, dtype=np.int64), np.empty(number + 1, dtype=np.int64)
    number = 0
    for q in range(len(key)):
        if q == 0 or key[order[q]] != key[order[q - 1]]:
            occupied[number] = key[order[q]]
            start[number] = q
            number += 1
    start[number] = len(key)
    return order, occupied, start


@compiled
def arrange(positions: F8, lattice: Lattice, wrap: NDArray[np.int32], first: int, last: int, into: Sorted) -> None:
    """Write wrapped positions and wrapping of the atoms first..last-1 in the order of the bins."""
    basis, whole = lattice.basis, lattice.whole
    for q in range(first, last):
        i = into.atom[q]
        into.x[q], into.y[q], into.z[q] = positions[i, 0], positions[i, 1], positions[i, 2]
        if len(into.wrap) > 0:
            a, b, c = np.int64(wrap[i, 0]), np.int64(wrap[i, 1]), np.int64(wrap[i, 2])
            for d in range(3):
                into.wrap[q, d] = a * whole[0, d] + b * whole[1, d] + c * whole[2, d]
            into.x[q] -= a * basis[0, 0] + b * basis[1, 0] + c * basis[2, 0]
            into.y[q] -= a * basis[0, 1] + b * basis[1, 1] + c * basis[2, 1]
            into.z[q] -= a * basis[0, 2] + b * basis[1, 2] + c * basis[2, 2]

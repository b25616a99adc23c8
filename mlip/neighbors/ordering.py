"""Atoms in the order of their bins."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.neighbors.bins import Grid, coordinate
from mlip.neighbors.jit import compiled, inner
from mlip.neighbors.lattice import F8, I8, Lattice

I4 = NDArray[np.int32]
U4 = NDArray[np.uint32]  # unsigned, so that compiled code need not look for negative indices


class Ordered(NamedTuple):
    """N atoms in the order of their bins.

    Attributes:
        x, y, z: [N] A, positions wrapped into the cell.
        atom: [N] uint32, index of the atom.
        wrap: [N, 3] int32, lattice vectors of the cell subtracted from its position; [0, 3] if none.
        bin: [M] int64, ascending numbers of the occupied bins; [0] if `start` holds all bins.
        start: [M + 1] int64, first atom of each bin.
    """

    x: F8
    y: F8
    z: F8
    atom: U4
    wrap: I4
    bin: I8
    start: I8


@inner
def assign(positions: F8, lattice: Lattice, grid: Grid, key: I8, wrap: I4) -> bool:
    """Write the bin number [N] and the wrapping [N, 3] of all atoms; return whether any was wrapped."""
    wrapped = False
    for k in range(2, -1, -1):
        most = grid.bins[k] - 1
        for i in range(len(positions)):
            f = coordinate(positions, i, lattice.dual, k)
            turns = math.floor(f) if lattice.periodic[k] else 0
            wrap[i, k] = turns
            wrapped |= turns != 0
            b = min(max(np.int64((f - turns - grid.origin[k]) * grid.density[k]), 0), most)
            key[i] = b if k == 2 else key[i] * grid.bins[k] + b
    return wrapped


@compiled
def sort_all(key: I8, bins: int) -> tuple[U4, I8]:
    """Return the atoms in the order of their bins and the first of each bin: [N], [bins + 1]."""
    start = np.zeros(bins + 1, dtype=np.int64)
    for i in range(len(key)):
        start[key[i] + 1] += 1
    for b in range(bins):
        start[b + 1] += start[b]
    order = np.empty(len(key), dtype=np.uint32)
    place = start.copy()
    for i in range(len(key)):
        order[place[key[i]]] = i
        place[key[i]] += 1
    return order, start


@compiled
def sort_occupied(key: I8, grid: Grid) -> tuple[U4, I8, I8]:
    """Return the atoms in the order of their bins, the M occupied bins, and the first atom of each.

    They are sorted along one direction after the other, each time keeping the order found so far.
    """
    number = len(key)
    along = np.empty(number, dtype=np.int64)
    order = np.arange(number).astype(np.uint32)
    below = 1
    for k in range(3):
        for q in range(number):
            along[q] = key[order[q]] // below % grid.bins[k]
        again, _ = sort_all(along, int(grid.bins[k]))
        for q in range(number):
            again[q] = order[again[q]]
        order = again
        below *= grid.bins[k]
    occupied, start = np.empty(number, dtype=np.int64), np.empty(number + 1, dtype=np.int64)
    m = 0
    for q in range(number):
        if q == 0 or key[order[q]] != key[order[q - 1]]:
            occupied[m] = key[order[q]]
            start[m] = q
            m += 1
    start[m] = number
    return order, occupied[:m], start[:m + 1]


@inner
def arrange(positions: F8, lattice: Lattice, wrap: I4, into: Ordered) -> None:
    """Write wrapped positions and wrapping of all atoms in the order of their bins."""
    basis, whole = lattice.basis, lattice.whole
    for q in range(len(into.atom)):
        i = into.atom[q]
        into.x[q], into.y[q], into.z[q] = positions[i, 0], positions[i, 1], positions[i, 2]
        if len(into.wrap) > 0:
            a, b, c = np.int64(wrap[i, 0]), np.int64(wrap[i, 1]), np.int64(wrap[i, 2])
            for d in range(3):
                into.wrap[q, d] = a * whole[0, d] + b * whole[1, d] + c * whole[2, d]
            into.x[q] -= a * basis[0, 0] + b * basis[1, 0] + c * basis[2, 0]
            into.y[q] -= a * basis[0, 1] + b * basis[1, 1] + c * basis[2, 1]
            into.z[q] -= a * basis[0, 2] + b * basis[1, 2] + c * basis[2, 2]


@compiled
def order_atoms(positions: F8, lattice: Lattice, grid: Grid) -> Ordered:
    """Sort atoms into bins: all bins are kept, or the occupied ones where those are few among many."""
    number = len(positions)
    key, wrap = np.empty(number, dtype=np.int64), np.empty((number, 3), dtype=np.int32)
    wrapped = assign(positions, lattice, grid, key, wrap)
    bins = float(grid.bins[0]) * float(grid.bins[1]) * float(grid.bins[2])
    if bins <= 4.0 * number + 64.0:
        occupied = np.empty(0, dtype=np.int64)
        order, start = sort_all(key, int(bins))
    else:
        order, occupied, start = sort_occupied(key, grid)
    ordered = Ordered(np.empty(number), np.empty(number), np.empty(number), order,
                      np.empty((number if wrapped else 0, 3), dtype=np.int32), occupied, start)
    arrange(positions, lattice, wrap, ordered)
    return ordered

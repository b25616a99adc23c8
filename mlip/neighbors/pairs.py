"""Atoms in bins -> edges: counted, then written, bin by bin."""

from __future__ import annotations

import math

import numpy as np

from mlip.neighbors.around import Near, closest, gather
from mlip.neighbors.bins import Grid
from mlip.neighbors.jit import inner, kernel
from mlip.neighbors.lattice import F8, I8, Lattice
from mlip.neighbors.ordering import I4, Ordered


@inner
def is_pair(positions: F8, cell: F8, limit: float, i: int, j: int, a: int, b: int, c: int) -> bool:
    """Decide by the definition: |(r_j - r_i) + S.cell|^2 < limit with the positions as given."""
    x = positions[j, 0] - positions[i, 0] + (a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0])
    y = positions[j, 1] - positions[i, 1] + (a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1])
    z = positions[j, 2] - positions[i, 2] + (a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2])
    return x * x + y * y + z * z < limit  # type: ignore[no-any-return]


@inner
def sift(positions: F8, cell: F8, limits: F8, atoms: Ordered, q: int, near: Near, m: int, shifted: bool) -> int:
    """Keep those of the m picked that are neighbours of the atom at place q, by the definition if in doubt."""
    i = atoms.atom[q]
    a, b, c = 0, 0, 0
    if len(atoms.wrap) > 0:
        a, b, c = atoms.wrap[q, 0], atoms.wrap[q, 1], atoms.wrap[q, 2]
    kept = 0
    for p in range(m):
        k = near.pick[p]
        sure = near.square[k] < limits[0]
        if not sure and shifted:
            sure = is_pair(positions, cell, limits[2], i, near.atom[k], near.a[k] + a, near.b[k] + b, near.c[k] + c)
        elif not sure:
            sure = is_pair(positions, cell, limits[2], i, near.atom[k], 0, 0, 0)
        near.pick[kept] = k
        kept += sure
    return kept


@inner
def pick_pairs(atoms: Ordered, q: int, near: Near, n: int, own: int, limit: float) -> int:
    """Pick the atoms and images nearer than sqrt(limit) A to the atom at place q, but not itself."""
    px, py, pz = atoms.x[q], atoms.y[q], atoms.z[q]
    x, y, z, square = near.x[:n], near.y[:n], near.z[:n], near.square[:n]
    for k in range(n):
        dx, dy, dz = x[k] - px, y[k] - py, z[k] - pz
        square[k] = dx * dx + dy * dy + dz * dz
    square[own] = math.inf
    return closest(square, limit, near.pick)


@inner
def count_pairs(atoms: Ordered, q: int, near: Near, n: int, limits: F8) -> int:
    """Return the number of neighbours of the atom at place q plus itself, or -1 where some are in doubt."""
    px, py, pz = atoms.x[q], atoms.y[q], atoms.z[q]
    x, y, z = near.x[:n], near.y[:n], near.z[:n]
    sure, possible = 0, 0
    inner, outer = limits[0], limits[1]
    for k in range(n):
        dx, dy, dz = x[k] - px, y[k] - py, z[k] - pz
        square = dx * dx + dy * dy + dz * dz
        sure += square < inner
        possible += square < outer
    return sure if sure == possible else -1


@kernel
def count(positions: F8, lattice: Lattice, grid: Grid, atoms: Ordered, first: int, last: int, near: Near,
          degree: I8) -> None:
    """Write the number of neighbours of each atom in the bins first..last-1 to `degree` [N]."""
    for b in range(first, last):
        begin, end = atoms.start[b], atoms.start[b + 1]
        if begin == end:
            continue
        key = atoms.bin[b] if len(atoms.bin) > 0 else b
        n, own, shifted = gather(atoms, lattice, grid, key, begin, end, near)
        for q in range(begin, end):
            m = count_pairs(atoms, q, near, n, grid.limits) - 1
            if m < 0:
                m = pick_pairs(atoms, q, near, n, own + q - begin, grid.limits[1])
                m = sift(positions, lattice.user, grid.limits, atoms, q, near, m, shifted)
            degree[atoms.atom[q]] = m


@inner
def write_atoms(near: Near, senders: I8) -> None:
    """Write the picked atoms."""
    pick, atom = near.pick[:len(senders)], near.atom
    for p in range(len(pick)):
        senders[p] = atom[pick[p]]


@inner
def write_shifts(near: Near, a: int, b: int, c: int, shifts: I4) -> None:
    """Write the shifts of the picked atoms, to each of which (a, b, c) is added."""
    pick, na, nb, nc = near.pick[:len(shifts)], near.a, near.b, near.c
    for p in range(len(pick)):
        k = pick[p]
        shifts[p, 0] = na[k] + a
        shifts[p, 1] = nb[k] + b
        shifts[p, 2] = nc[k] + c


@kernel
def fill(positions: F8, lattice: Lattice, grid: Grid, atoms: Ordered, first: int, last: int, near: Near,
         offsets: I8, senders: I8, receivers: I8, shifts: I4) -> None:
    """Write senders and shifts of the atoms in the bins first..last-1 to where `offsets` [N + 1] puts them.

    Shifts [E, 3] must hold zeros; only others are written. Receivers are written for as many atoms,
    those whose indices are the places of these: in sequence, which is quicker.
    """
    for t in range(atoms.start[first], atoms.start[last]):
        edges = receivers[offsets[t]:offsets[t + 1]]
        for p in range(len(edges)):
            edges[p] = t
    for b in range(first, last):
        begin, end = atoms.start[b], atoms.start[b + 1]
        if begin == end:
            continue
        key = atoms.bin[b] if len(atoms.bin) > 0 else b
        n, own, shifted = gather(atoms, lattice, grid, key, begin, end, near)
        for q in range(begin, end):
            i = np.int64(atoms.atom[q])
            low, high = offsets[i], offsets[i + 1]
            m = pick_pairs(atoms, q, near, n, own + q - begin, grid.limits[1])
            if m != high - low:
                sift(positions, lattice.user, grid.limits, atoms, q, near, m, shifted)
            write_atoms(near, senders[low:high])
            if shifted and len(atoms.wrap) > 0:
                wrap = atoms.wrap[q]
                write_shifts(near, wrap[0], wrap[1], wrap[2], shifts[low:high])
            elif shifted:
                write_shifts(near, 0, 0, 0, shifts[low:high])

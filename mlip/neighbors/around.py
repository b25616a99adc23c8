"""All atoms and images that can be neighbours of the atoms of one bin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlip.neighbors.bins import Grid
from mlip.neighbors.jit import compiled, inner
from mlip.neighbors.lattice import F8, I8, Lattice
from mlip.neighbors.ordering import I4, U4, Ordered


class Near(NamedTuple):
    """The atoms and images around one bin; room for C of them, in Q runs of neighbouring bins.

    Attributes:
        x, y, z: [C] A, images moved to where they are seen from the bin.
        square: [C] A^2, squared distances.
        atom: [C] uint32, index of the atom (while collecting: its place in the order of the bins).
        a, b, c: [C] int32, shift: image less wrapping; not written where all are zero.
        pick: [C] uint32, which of them are wanted.
        run: [Q, 2] int64, first and one behind the last place of each run.
        image: [Q, 3] int64, vectors of the reduced basis each run is moved by.
    """

    x: F8
    y: F8
    z: F8
    square: F8
    atom: U4
    a: I4
    b: I4
    c: I4
    pick: U4
    run: I8
    image: I8


@compiled
def make_room(lattice: Lattice, grid: Grid, atoms: Ordered) -> Near:
    """Return room for everything around any bin."""
    largest = 0
    for b in range(len(atoms.start) - 1):
        largest = max(largest, atoms.start[b + 1] - atoms.start[b])
    around, images, runs = 1.0, 1.0, 1
    for k in range(3):
        m = grid.reach[k]
        turns = 2 * m // grid.bins[k] + 2 if lattice.periodic[k] else 1
        around *= 2 * m + 1
        images *= turns
        runs *= turns if k == 0 else 2 * m + 1
    size = np.int64(min(around * largest, images * len(atoms.x)))
    return Near(np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size, dtype=np.uint32),
                np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32),
                np.empty(size, dtype=np.uint32), np.empty((runs, 2), dtype=np.int64),
                np.empty((runs, 3), dtype=np.int64))


@inner
def lower_bound(ascending: I8 | U4, n: int, value: int) -> int:
    """Return the index of the first of n ascending numbers that is not below `value`."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def start_of(atoms: Ordered, key: int) -> int:
    """Return the place of the first atom whose bin has the number `key` or a higher one."""
    if len(atoms.bin) == 0:
        return atoms.start[key]  # type: ignore[no-any-return]
    return atoms.start[lower_bound(atoms.bin, len(atoms.bin), key)]  # type: ignore[no-any-return]


@inner
def list_runs(atoms: Ordered, lattice: Lattice, grid: Grid, key: int, first: int,
              near: Near) -> tuple[int, int, int, bool]:
    """List the runs of atoms within reach of the bin number `key`, whose first atom is at place `first`.

    Returns:
        The number of runs, of atoms in them, of those before the atom at `first` itself, and whether
        any run is a moved image.
    """
    run, image, m = near.run, near.image, grid.reach
    nx, ny, nz = grid.bins[0], grid.bins[1], grid.bins[2]
    bx, by, bz = key % nx, key // nx % ny, key // (nx * ny)
    low, high = bx - m[0], bx + m[0]
    if not lattice.periodic[0]:
        low, high = max(low, 0), min(high, nx - 1)
    first_turn, last_turn = low // nx, high // nx
    number, total, own, moved = 0, 0, 0, False
    for cz in range(bz - m[2], bz + m[2] + 1):
        turn_z = cz // nz
        if turn_z != 0 and not lattice.periodic[2]:
            continue
        for cy in range(by - m[1], by + m[1] + 1):
            turn_y = cy // ny
            if turn_y != 0 and not lattice.periodic[1]:
                continue
            row = ((cz - turn_z * nz) * ny + cy - turn_y * ny) * nx
            for turn_x in range(first_turn, last_turn + 1):
                begin = start_of(atoms, row + max(low - turn_x * nx, 0))
                end = start_of(atoms, row + min(high - turn_x * nx, nx - 1) + 1)
                if turn_x == 0 and cy == by and cz == bz:
                    own = total + first - begin
                if end > begin:
                    run[number, 0], run[number, 1] = begin, end
                    image[number, 0], image[number, 1], image[number, 2] = turn_x, turn_y, turn_z
                    moved |= turn_x != 0 or turn_y != 0 or turn_z != 0
                    number += 1
                    total += end - begin
    return number, total, own, moved


@inner
def collect(atoms: Ordered, basis: F8, near: Near, runs: int) -> None:
    """Write the moved positions and the places of all atoms of the runs."""
    n = 0
    for s in range(runs):
        a, b, c = near.image[s, 0], near.image[s, 1], near.image[s, 2]
        dx = a * basis[0, 0] + b * basis[1, 0] + c * basis[2, 0]
        dy = a * basis[0, 1] + b * basis[1, 1] + c * basis[2, 1]
        dz = a * basis[0, 2] + b * basis[1, 2] + c * basis[2, 2]
        begin, end = near.run[s, 0], near.run[s, 1]
        m = n + end - begin
        ax, ay, az = atoms.x[begin:end], atoms.y[begin:end], atoms.z[begin:end]
        x, y, z, atom = near.x[n:m], near.y[n:m], near.z[n:m], near.atom[n:m]
        for t in range(len(ax)):
            x[t], y[t], z[t] = ax[t] + dx, ay[t] + dy, az[t] + dz
            atom[t] = begin + t
        n = m


@inner
def collect_shifts(atoms: Ordered, whole: I8, near: Near, runs: int) -> bool:
    """Write the shifts of all atoms of the runs; return whether any is not zero."""
    n, found = 0, 0
    for s in range(runs):
        i, j, k = near.image[s, 0], near.image[s, 1], near.image[s, 2]
        ia = i * whole[0, 0] + j * whole[1, 0] + k * whole[2, 0]
        ib = i * whole[0, 1] + j * whole[1, 1] + k * whole[2, 1]
        ic = i * whole[0, 2] + j * whole[1, 2] + k * whole[2, 2]
        begin, end = near.run[s, 0], near.run[s, 1]
        m = n + end - begin
        a, b, c = near.a[n:m], near.b[n:m], near.c[n:m]
        if len(atoms.wrap) > 0:
            wrap = atoms.wrap[begin:end]
            for t in range(len(a)):
                a[t], b[t], c[t] = ia - wrap[t, 0], ib - wrap[t, 1], ic - wrap[t, 2]
                found |= a[t] | b[t] | c[t]
        else:
            for t in range(len(a)):
                a[t], b[t], c[t] = ia, ib, ic
            found |= ia | ib | ic
        n = m
    return found != 0


@inner
def closest(square: F8, limit: float, pick: U4) -> int:
    """Write the indices of the values below `limit` to `pick`; return how many they are."""
    m = np.uint64(0)
    for k in range(len(square)):
        pick[m] = k
        m += np.uint64(square[k] < limit)
    return np.int64(m)  # type: ignore[return-value]


@inner
def keep_near(atoms: Ordered, first: int, last: int, near: Near, n: int, limit: float, shifted: bool) -> int:
    """Keep those of n that are nearer than sqrt(limit) A to the box around the atoms first..last-1."""
    ax = bx = atoms.x[first]
    ay = by = atoms.y[first]
    az = bz = atoms.z[first]
    for q in range(first + 1, last):
        ax, bx = min(ax, atoms.x[q]), max(bx, atoms.x[q])
        ay, by = min(ay, atoms.y[q]), max(by, atoms.y[q])
        az, bz = min(az, atoms.z[q]), max(bz, atoms.z[q])
    x, y, z, square, atom, pick = near.x, near.y, near.z, near.square[:n], near.atom, near.pick
    for k in range(n):
        dx = max(max(ax - x[k], x[k] - bx), 0.0)
        dy = max(max(ay - y[k], y[k] - by), 0.0)
        dz = max(max(az - z[k], z[k] - bz), 0.0)
        square[k] = dx * dx + dy * dy + dz * dz
    m = closest(square, limit, pick)
    for p in range(m):
        k = pick[p]
        x[p], y[p], z[p], atom[p] = x[k], y[k], z[k], atoms.atom[atom[k]]
    if shifted:
        for p in range(m):
            k = pick[p]
            near.a[p], near.b[p], near.c[p] = near.a[k], near.b[k], near.c[k]
    return m


@inner
def gather(atoms: Ordered, lattice: Lattice, grid: Grid, key: int, first: int, last: int,
           near: Near) -> tuple[int, int, bool]:
    """Collect everything near a bin.

    Args:
        atoms: in the order of their bins.
        lattice: of the structure.
        grid: of bins.
        key: number of the bin.
        first: of its atoms.
        last: one behind its last atom.
        near: room to write to.

    Returns:
        How many were found, where among them the atoms of the bin themselves begin, and whether
        any shift is not zero.
    """
    runs, total, own, shifted = list_runs(atoms, lattice, grid, key, first, near)
    collect(atoms, lattice.basis, near, runs)
    if shifted or len(atoms.wrap) > 0:
        shifted = collect_shifts(atoms, lattice.whole, near, runs)
    n = keep_near(atoms, first, last, near, total, 2 * grid.limits[1] - grid.limits[2], shifted)
    return n, lower_bound(near.pick, n, own), shifted

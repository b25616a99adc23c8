"""Atoms in bins -> pairs: counted, then written, bin by bin."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.neighbors.bins import Grid, Sorted
from mlip.neighbors.jit import compiled
from mlip.neighbors.lattice import F8, I8, Lattice

I4 = NDArray[np.int32]


class Near(NamedTuple):
    """The atoms and images around one bin; room for C of them.

    Attributes:
        x, y, z: [C] A, images moved to where they are seen from the bin.
        square: [C] A^2, squared distances.
        atom: [C] int64, index of the atom.
        shift: [C, 3] int32, image, less the wrapping of the atom; written only if any is not zero.
        pick: [C] int64, which of them are neighbours of an atom.
    """

    x: F8
    y: F8
    z: F8
    square: F8
    atom: I8
    shift: I4
    pick: I8


@compiled
def room(size: int) -> Near:
    """Return room for `size` atoms."""
    return Near(np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size, dtype=np.int64),
                np.empty((size, 3), dtype=np.int32), np.empty(size, dtype=np.int64))


@compiled
def more_room(near: Near, size: int) -> Near:
    """Return a copy with room for `size` atoms."""
    new = room(size)
    old = len(near.x)
    new.x[:old], new.y[:old], new.z[:old] = near.x, near.y, near.z
    new.atom[:old], new.shift[:old] = near.atom, near.shift
    return new


@compiled
def start_of(atoms: Sorted, key: int) -> int:
    """Return the place of the first atom whose bin has the number `key` or a higher one."""
    if len(atoms.bin) == 0:
        return atoms.start[key]
    return atoms.start[np.searchsorted(atoms.bin, key)]


@compiled
def box(atoms: Sorted, first: int, last: int) -> F8:
    """Return [6] the least and largest coordinates of some atoms, A."""
    out = np.empty(6)
    out[0], out[1], out[2] = atoms.x[first], atoms.y[first], atoms.z[first]
    out[3], out[4], out[5] = out[0], out[1], out[2]
    for q in range(first + 1, last):
        out[0], out[3] = min(out[0], atoms.x[q]), max(out[3], atoms.x[q])
        out[1], out[4] = min(out[1], atoms.y[q]), max(out[4], atoms.y[q])
        out[2], out[5] = min(out[2], atoms.z[q]), max(out[5], atoms.z[q])
    return out


@compiled
def take(atoms: Sorted, first: int, last: int, move: F8, around: F8, limit: float, near: Near, n: int) -> int:
    """Append the atoms first..last-1, moved, that are nearer than sqrt(limit) to a box; return the new number."""
    dx, dy, dz = move[0], move[1], move[2]
    ax, ay, az, bx, by, bz = around[0], around[1], around[2], around[3], around[4], around[5]
    square = near.square[n:n + last - first]
    x, y, z = atoms.x[first:last], atoms.y[first:last], atoms.z[first:last]
    for t in range(len(x)):
        px, py, pz = x[t] + dx, y[t] + dy, z[t] + dz
        ex, ey, ez = max(ax - px, px - bx), max(ay - py, py - by), max(az - pz, pz - bz)
        ex, ey, ez = max(ex, 0.0), max(ey, 0.0), max(ez, 0.0)
        square[t] = ex * ex + ey * ey + ez * ez
    for t in range(len(x)):
        near.x[n], near.y[n], near.z[n] = x[t] + dx, y[t] + dy, z[t] + dz
        near.atom[n] = first + t
        n += square[t] < limit
    return n


@compiled
def label(atoms: Sorted, image: I8, whole: I8, near: Near, first: int, last: int, shifted: bool) -> bool:
    """Turn the places of the atoms first..last-1 of `near` into indices, and write their shifts.

    Returns whether any shift was written; `shifted` tells whether any was before.
    """
    a, b, c = image[0], image[1], image[2]
    wrapped = len(atoms.wrap) > 0
    if not shifted and (wrapped or a != 0 or b != 0 or c != 0):
        near.shift[:first] = 0
        shifted = True
    if shifted:
        for d in range(3):
            s = a * whole[0, d] + b * whole[1, d] + c * whole[2, d]
            for k in range(first, last):
                near.shift[k, d] = s
                if wrapped:
                    near.shift[k, d] -= atoms.wrap[near.atom[k], d]
    for k in range(first, last):
        near.atom[k] = atoms.atom[near.atom[k]]
    return shifted


@compiled
def gather(atoms: Sorted, lattice: Lattice, grid: Grid, key: int, first: int, last: int,
           near: Near) -> tuple[Near, int, int, bool]:
    """Collect everything near a bin.

    Args:
        atoms: in the order of their bins.
        lattice: of the structure.
        grid: of bins.
        key: number of the bin.
        first: of its atoms.
        last: one behind its last atom.
        near: room, which may be replaced by a larger one.

    Returns:
        The room, how many it holds, where the atoms of the bin themselves begin, and whether there
        are shifts.
    """
    basis, bins, reach = lattice.basis, grid.bins, grid.reach
    nx, ny, nz = bins[0], bins[1], bins[2]
    around = box(atoms, first, last)
    limit = 2 * grid.limits[1] - grid.limits[2]
    n, own, shifted = 0, 0, False
    image, move = np.zeros(3, dtype=np.int64), np.zeros(3)
    bx, by, bz = key % nx, key // nx % ny, key // (nx * ny)
    for cz in range(bz - reach[2], bz + reach[2] + 1):
        image[2] = cz // nz
        if image[2] != 0 and not lattice.periodic[2]:
            continue
        for cy in range(by - reach[1], by + reach[1] + 1):
            image[1] = cy // ny
            if image[1] != 0 and not lattice.periodic[1]:
                continue
            row = ((cz - image[2] * nz) * ny + cy - image[1] * ny) * nx
            low, high = bx - reach[0], bx + reach[0]
            if not lattice.periodic[0]:
                low, high = max(low, 0), min(high, nx - 1)
            for turn in range(low // nx, high // nx + 1):
                image[0] = turn
                begin = start_of(atoms, row + max(low - turn * nx, 0))
                end = start_of(atoms, row + min(high - turn * nx, nx - 1) + 1)
                if end == begin:
                    continue
                if n + end - begin >= len(near.x):
                    near = more_room(near, 2 * (n + end - begin) + 64)
                for d in range(3):
                    move[d] = image[0] * basis[0, d] + image[1] * basis[1, d] + image[2] * basis[2, d]
                m = take(atoms, begin, end, move, around, limit, near, n)
                if image[0] == 0 and image[1] == 0 and image[2] == 0:
                    own = n
                    while near.atom[own] != first:
                        own += 1
                shifted = label(atoms, image, lattice.whole, near, n, m, shifted)
                n = m
    return near, n, own, shifted


@compiled
def is_pair(positions: F8, user: F8, limit: float, i: int, near: Near, k: int, wrap: I4, shifted: bool) -> bool:
    """Decide by the definition: |(r_j - r_i) + S.cell|^2 < cutoff^2 with the positions as given."""
    j = near.atom[k]
    a, b, c = 0, 0, 0
    if shifted:
        a, b, c = near.shift[k, 0] + wrap[0], near.shift[k, 1] + wrap[1], near.shift[k, 2] + wrap[2]
    x = positions[j, 0] - positions[i, 0] + (a * user[0, 0] + b * user[1, 0] + c * user[2, 0])
    y = positions[j, 1] - positions[i, 1] + (a * user[0, 1] + b * user[1, 1] + c * user[2, 1])
    z = positions[j, 2] - positions[i, 2] + (a * user[0, 2] + b * user[1, 2] + c * user[2, 2])
    return bool(x * x + y * y + z * z < limit)


@compiled
def wrap_of(atoms: Sorted, q: int) -> I4:
    """Return [3] int32, the wrapping of the atom at a place."""
    if len(atoms.wrap) > 0:
        return atoms.wrap[q]
    return np.zeros(3, dtype=np.int32)


@compiled
def count(positions: F8, lattice: Lattice, grid: Grid, atoms: Sorted, first: int, last: int, degree: I8) -> None:
    """Write the number of neighbours of each atom in the bins first..last-1 to `degree` [N]."""
    near = room(512)
    inner_limit, outer_limit = grid.limits[0], grid.limits[1]
    for b in range(first, last):
        begin, end = atoms.start[b], atoms.start[b + 1]
        if begin == end:
            continue
        key = atoms.bin[b] if len(atoms.bin) > 0 else b
        near, n, own, shifted = gather(atoms, lattice, grid, key, begin, end, near)
        x, y, z = near.x[:n], near.y[:n], near.z[:n]
        for q in range(begin, end):
            px, py, pz = atoms.x[q], atoms.y[q], atoms.z[q]
            inner, outer = 0, 0
            for k in range(n):
                dx, dy, dz = x[k] - px, y[k] - py, z[k] - pz
                square = dx * dx + dy * dy + dz * dz
                inner += square < inner_limit
                outer += square < outer_limit
            i = atoms.atom[q]
            if inner == outer:
                degree[i] = inner - 1
            else:
                degree[i] = len(pairs_of(positions, lattice, grid, atoms, near, n, own + q - begin, q, shifted))


@compiled
def pairs_of(positions: F8, lattice: Lattice, grid: Grid, atoms: Sorted, near: Near, n: int, own: int, q: int,
             shifted: bool) -> I8:
    """Return which of `near` are neighbours of the atom at place q, which itself is at place `own` there."""
    px, py, pz = atoms.x[q], atoms.y[q], atoms.z[q]
    x, y, z, square, pick = near.x[:n], near.y[:n], near.z[:n], near.square[:n], near.pick
    for k in range(n):
        dx, dy, dz = x[k] - px, y[k] - py, z[k] - pz
        square[k] = dx * dx + dy * dy + dz * dz
    square[own] = math.inf
    inner_limit, outer_limit = grid.limits[0], grid.limits[1]
    m = 0
    unsure = 0
    for k in range(n):
        pick[m] = k
        m += square[k] < outer_limit
        unsure += (square[k] < outer_limit) & (square[k] >= inner_limit)
    if unsure > 0:
        kept = 0
        wrap = wrap_of(atoms, q)
        for p in range(m):
            k = pick[p]
            if square[k] < inner_limit or is_pair(positions, lattice.user, grid.limits[2], atoms.atom[q], near, k,
                                                  wrap, shifted):
                pick[kept] = k
                kept += 1
        m = kept
    return pick[:m]


@compiled
def fill(positions: F8, lattice: Lattice, grid: Grid, atoms: Sorted, first: int, last: int, offsets: I8,
         senders: I8, receivers: I8, shifts: I4) -> None:
    """Write the edges of the atoms in the bins first..last-1 to where `offsets` [N + 1] puts them."""
    near = room(512)
    for b in range(first, last):
        begin, end = atoms.start[b], atoms.start[b + 1]
        if begin == end:
            continue
        key = atoms.bin[b] if len(atoms.bin) > 0 else b
        near, n, own, shifted = gather(atoms, lattice, grid, key, begin, end, near)
        for q in range(begin, end):
            pick = pairs_of(positions, lattice, grid, atoms, near, n, own + q - begin, q, shifted)
            i = atoms.atom[q]
            o = offsets[i]
            write(near, pick, i, wrap_of(atoms, q), shifted, senders[o:o + len(pick)],
                  receivers[o:o + len(pick)], shifts[o:o + len(pick)])


@compiled
def write(near: Near, pick: I8, i: int, wrap: I4, shifted: bool, senders: I8, receivers: I8, shifts: I4) -> None:
    """Write the edges of one receiver."""
    for p in range(len(pick)):
        senders[p] = near.atom[pick[p]]
        receivers[p] = i
    if shifted:
        a, b, c = wrap[0], wrap[1], wrap[2]
        for p in range(len(pick)):
            k = pick[p]
            shifts[p, 0], shifts[p, 1] = near.shift[k, 0] + a, near.shift[k, 1] + b
            shifts[p, 2] = near.shift[k, 2] + c
    else:
        shifts[:] = 0

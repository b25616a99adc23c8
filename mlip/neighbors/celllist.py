"""`neighbor_list`: atoms in bins, counted and written in parallel."""

from __future__ import annotations

from collections import deque
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.errors import OptionError, StructureError
from mlip.neighbors.around import make_room
from mlip.neighbors.bins import (
    BAD_LATTICE,
    GOOD,
    NOT_FINITE,
    SHIFT_OVERFLOW,
    TOO_MANY_IMAGES,
    Grid,
    make_grid,
    measure,
)
from mlip.neighbors.edges import NeighborList
from mlip.neighbors.inputs import (
    array_of_cell,
    checked_cutoff,
    checked_positions,
    flags,
    require_finite,
    require_lattice,
)
from mlip.neighbors.jit import compiled
from mlip.neighbors.lattice import F8, I8, Lattice, make_lattice
from mlip.neighbors.ordering import I4, Ordered, order_atoms
from mlip.neighbors.pairs import count, fill
from mlip.neighbors.workers import threads_for, work_through


@compiled
def prepare(positions: F8, cell: F8, pbc: NDArray[np.bool_], cutoff: float) -> tuple[int, Lattice, Grid, Ordered]:
    """Sort the atoms into bins; what came of it, lattice, grid, atoms."""
    lattice, sound = make_lattice(cell, pbc)
    span = np.empty(7)
    measure(positions, lattice.dual, span)
    grid, outcome = make_grid(lattice, span, len(positions), cutoff)
    if not sound:
        outcome = BAD_LATTICE
    if not np.isfinite(span[6]):
        outcome = NOT_FINITE
    if outcome != GOOD:  # whatever the numbers are: one atom in one bin
        positions = np.zeros((1, 3))
        for k in range(3):
            grid.bins[k] = 1
    return outcome, lattice, grid, order_atoms(positions, lattice, grid)


def parts_of(atoms: Ordered, threads: int) -> list[int]:
    """Return bounds of bins that hold about equally many atoms, some parts for each thread."""
    if threads == 1:
        return [0, len(atoms.start) - 1]
    bounds = np.searchsorted(atoms.start, np.linspace(0, len(atoms.x), 8 * threads + 1))
    bounds[-1] = len(atoms.start) - 1
    return bounds.tolist()  # type: ignore[no-any-return]


def room_for_edges(edges: int) -> tuple[I8, I8, I4]:
    """Return room for senders [E], receivers [E] and shifts [E, 3], zeros, cut from one block of memory.

    One large block is much cheaper to get from the system than three of a few MB: it comes in large
    pages, or as the block that was given back last.

    Raises:
        StructureError: there is not so much memory.
    """
    try:
        block = np.zeros(2 * edges + (3 * edges + 1) // 2, dtype=np.int64)
    except MemoryError:
        raise StructureError(f"the structure has {edges:,} edges within the cutoff, too many for the memory "
                             f"({28e-9 * edges:.0f} GB); are positions, cell and cutoff in Angstrom?") from None
    return block[:edges], block[edges:2 * edges], block[2 * edges:].view(np.int32)[:3 * edges].reshape(edges, 3)


def search(positions: F8, lattice: Lattice, grid: Grid, atoms: Ordered, threads: int) -> NeighborList:
    """Count the edges of each atom, make room, and write them."""
    bounds = parts_of(atoms, threads)
    rooms = deque(make_room(lattice, grid, atoms) for _ in range(min(threads, len(bounds) - 1)))
    offsets = np.zeros(len(positions) + 1, dtype=np.int64)

    def counting(first: int, last: int) -> None:
        near = rooms.pop()
        count(positions, lattice, grid, atoms, first, last, near, offsets[1:])
        rooms.append(near)

    work_through(counting, bounds, threads)
    np.cumsum(offsets, out=offsets)
    senders, receivers, shifts = room_for_edges(int(offsets[-1]))

    def filling(first: int, last: int) -> None:
        near = rooms.pop()
        fill(positions, lattice, grid, atoms, first, last, near, offsets, senders, receivers, shifts)
        rooms.append(near)

    work_through(filling, bounds, threads)
    return NeighborList(senders, receivers, shifts, offsets)


def neighbor_list(positions: ArrayLike, cutoff: float, cell: ArrayLike | None = None,
                  pbc: bool | ArrayLike = False, *, threads: int | None = None) -> NeighborList:
    """Return all pairs of atoms and images closer than a cutoff, each in both directions.

    Right for every cell: triclinic, left-handed, however skewed, smaller than the cutoff; for atoms
    outside it; and for any choice of periodic directions, in the others of which the cell is ignored.

    An edge exists when x^2 + y^2 + z^2 < cutoff^2 with (x, y, z) = (r_j - r_i) + S.cell in float64
    arithmetic of the positions as given, so that i sees j exactly when j sees i. An atom is no
    neighbour of itself, but of its own images. Edges are sorted by receiver; those of one receiver
    come in an order that depends on the structure and cutoff only, not on the number of threads.

    Args:
        positions: [N, 3], A.
        cutoff: A, above 0.
        cell: [3, 3] rows or [3] edge lengths, A; needed for periodic directions.
        pbc: one flag or three.
        threads: most threads to use; numba's setting (NUMBA_NUM_THREADS, `numba.set_num_threads`)
            if not given. Below 2000 atoms the calling thread searches alone.

    Returns:
        Senders [E], receivers [E] and shifts [E, 3].

    Raises:
        StructureError: positions that are not finite or of a wrong shape; a periodic direction without
            a cell vector, linearly dependent ones; atoms so many cells away that int32 shifts overflow.
        OptionError: a cutoff that is not a finite number above 0, or less than one thread.
    """
    r = checked_positions(positions)
    rc = checked_cutoff(cutoff)
    periodic = flags(pbc)
    h = array_of_cell(cell)
    if threads is not None and threads < 1:
        raise OptionError(f"threads must be 1 or more; {threads!r} was given")
    if len(r) == 0:
        require_lattice(h, periodic)
        none = np.zeros(0, dtype=np.int64)
        return NeighborList(none, none.copy(), np.zeros((0, 3), dtype=np.int32), np.zeros(1, dtype=np.int64))
    outcome, lattice, grid, atoms = prepare(r, h, periodic, rc)
    if outcome != GOOD:
        explain(outcome, r, rc, h, periodic)
    return search(r, lattice, grid, atoms, threads_for(len(r), threads))


def explain(outcome: int, positions: F8, cutoff: float, cell: F8, pbc: NDArray[np.bool_]) -> NoReturn:
    """Raise the error that a search ended with."""
    require_finite(positions)
    require_lattice(cell, pbc)
    if outcome == TOO_MANY_IMAGES:
        raise StructureError(f"a cutoff of {cutoff:g} A reaches more than 1e8 images of the cell "
                             f"{cell[pbc].tolist()} A; are both in Angstrom?")
    if outcome == SHIFT_OVERFLOW:
        raise StructureError(f"atoms lie up to {abs(positions).max():g} A away, which is more cells of "
                             f"{cell[pbc].tolist()} A than 32-bit shifts can count; wrap them into the cell")
    raise StructureError(f"the neighbour search failed for the cell {cell.tolist()}, pbc {pbc.tolist()} ({outcome})")

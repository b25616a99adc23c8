"""`closest_contact`: the pair of atoms that lie deepest in each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mlip.neighbors.edges import NeighborList
from mlip.neighbors.inputs import array_of_cell, checked_positions
from mlip.neighbors.jit import kernel
from mlip.neighbors.lattice import F8, I8
from mlip.neighbors.ordering import I4


def closest_contact(positions: ArrayLike, cell: ArrayLike | None, edges: NeighborList,
                    size: F8) -> tuple[int, int, float] | None:
    """Return two atoms closer than the sum of their sizes, the pair for which this is most so.

    Args:
        positions: [N, 3] A.
        cell: [3, 3] rows, A; None where no edge has a shift.
        edges: neighbour list of the structure.
        size: [N] A.

    Returns:
        Receiver, sender and distance in A; None if there is no such pair.
    """
    r, h = checked_positions(positions), array_of_cell(cell)
    e, square = deepest(r, h, edges.senders, edges.receivers, edges.shifts, size)
    return None if e < 0 else (int(edges.receivers[e]), int(edges.senders[e]), float(np.sqrt(square)))


@kernel
def deepest(positions: F8, cell: F8, senders: I8, receivers: I8, shifts: I4, size: F8) -> tuple[int, float]:
    """Return the edge with the smallest squared length over the squared sum of sizes, if below 1, and its square."""
    found, length, least = -1, 0.0, 1.0
    for e in range(len(senders)):
        i, j = receivers[e], senders[e]
        square = 0.0
        for k in range(3):
            d = (positions[j, k] - positions[i, k]
                 + (shifts[e, 0] * cell[0, k] + shifts[e, 1] * cell[1, k] + shifts[e, 2] * cell[2, k]))
            square += d * d
        limit = size[i] + size[j]
        if square < least * limit * limit:
            found, length, least = e, square, square / (limit * limit)
    return found, length

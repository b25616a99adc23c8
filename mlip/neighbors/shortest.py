"""The shortest edge of a list."""

from __future__ import annotations

import math

import numpy as np

from mlip.neighbors.edges import NeighborList
from mlip.neighbors.jit import kernel
from mlip.neighbors.lattice import F8, I8
from mlip.neighbors.ordering import I4


def shortest_edge(positions: F8, cell: F8, edges: NeighborList) -> tuple[int, float]:
    """Return the index of the shortest edge and its squared length in A^2; (-1, inf) where there is none.

    Args:
        positions: [N, 3], A.
        cell: [3, 3], A, rows are lattice vectors.
        edges: of these atoms.
    """
    r, h = np.ascontiguousarray(positions, dtype=np.float64), np.ascontiguousarray(cell, dtype=np.float64)
    senders, receivers = (np.ascontiguousarray(each, dtype=np.int64) for each in (edges.senders, edges.receivers))
    found = _shortest(r, h, senders, receivers, np.ascontiguousarray(edges.shifts, dtype=np.int32))
    return int(found[0]), float(found[1])


@kernel
def _shortest(positions: F8, cell: F8, senders: I8, receivers: I8, shifts: I4) -> tuple[int, float]:
    best, least = -1, math.inf
    for e in range(len(senders)):
        i, j = receivers[e], senders[e]
        a, b, c = shifts[e, 0], shifts[e, 1], shifts[e, 2]
        x = positions[j, 0] - positions[i, 0] + (a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0])
        y = positions[j, 1] - positions[i, 1] + (a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1])
        z = positions[j, 2] - positions[i, 2] + (a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2])
        square = x * x + y * y + z * z
        if square < least:
            best, least = e, square
    return best, least

"""The oracle: every pair of atoms with every image that could matter, in plain numpy.

It costs N^2 times the number of images; it is here to be right, not fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.neighbors.edges import NeighborList
from mlip.neighbors.inputs import checked_cell, checked_cutoff, checked_positions, require_finite

AT_ONCE = 1_000_000  # pairs held in memory


def brute_force(positions: ArrayLike, cutoff: float, cell: ArrayLike | None = None,
                pbc: bool | ArrayLike = False) -> NeighborList:
    """Return the neighbour list by comparing all pairs; arguments and errors as `neighbor_list`.

    An edge exists when x^2 + y^2 + z^2 < cutoff^2 with (x, y, z) = (r_j - r_i) + S.cell, every
    operation rounded to float64 from left to right. `neighbor_list` decides by the same arithmetic,
    so the two agree bit by bit also for pairs at the cutoff.

    Edges are sorted by receiver, sender and shift.
    """
    r = checked_positions(positions)
    require_finite(r)
    rc = checked_cutoff(cutoff)
    h, periodic = checked_cell(cell, pbc)
    found = [np.zeros((0, 5), dtype=np.int64)]
    difference = r[None, :, :] - r[:, None, :]  # [i, j] = r_j - r_i
    nearest, around = images(difference, rc, h, periodic)
    step = max(1, AT_ONCE // max(1, len(r) ** 2))
    for start in range(0, len(around), step):
        shift = nearest + around[start:start + step, None, None, :]  # [images, i, j, 3]
        vectors = difference + (shift[..., :1] * h[0] + shift[..., 1:2] * h[1] + shift[..., 2:] * h[2])
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        m, i, j = np.nonzero(x * x + y * y + z * z < rc * rc)
        found.append(np.column_stack([i, j, shift[m, i, j].astype(np.int64)]))
    edges = np.concatenate(found)
    edges = edges[(edges[:, 0] != edges[:, 1]) | edges[:, 2:].any(axis=1)]  # no atom sees itself
    edges = edges[np.lexsort(edges.T[::-1])]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(edges[:, 0], minlength=len(r)))]).astype(np.int64)
    return NeighborList(edges[:, 1].copy(), edges[:, 0].copy(), edges[:, 2:].astype(np.int32), offsets)


def images(difference: NDArray[np.float64], cutoff: float, cell: NDArray[np.float64],
           pbc: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [N, N, 3] a shift for each pair, and [M, 3] what to add to it: every shift that can matter.

    With the dual vectors g_k of the periodic lattice vectors, the vector d of an edge has
    S_k = (d - (r_j - r_i)).g_k, and |d.g_k| < cutoff |g_k|: that bounds S_k around -(r_j - r_i).g_k.
    """
    nearest = np.zeros(difference.shape)
    ranges = [np.zeros(1)] * 3
    if pbc.any():
        dual = np.linalg.pinv(cell[pbc])  # [3, P], columns g_k
        nearest[..., pbc] = -np.rint(difference @ dual)
        reach = np.floor(cutoff * np.linalg.norm(dual, axis=0) + 0.5) + 1
        for k, m in zip(np.flatnonzero(pbc), reach, strict=True):
            ranges[k] = np.arange(-m, m + 1)
    return nearest, np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)

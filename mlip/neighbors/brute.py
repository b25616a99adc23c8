"""The oracle: every pair of atoms with every image that could matter, in plain numpy.

It costs N^2 times the number of images in time and memory; it is here to be right, not fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.neighbors.edges import NeighborList
from mlip.neighbors.inputs import checked_cell, checked_cutoff, checked_positions, require_finite


def brute_force(positions: ArrayLike, cutoff: float, cell: ArrayLike | None = None,
                pbc: bool | ArrayLike = False) -> NeighborList:
    """Return the neighbour list by comparing all pairs; arguments and errors as `neighbor_list`.

    An edge exists when x^2 + y^2 + z^2 < cutoff^2 with (x, y, z) = (r_j - r_i) + S.cell, every
    operation rounded to float64 from left to right. `neighbor_list` decides by the same arithmetic,
    so the two agree bit by bit also for pairs at the cutoff.
    """
    r = checked_positions(positions)
    require_finite(r)
    rc = checked_cutoff(cutoff)
    h, periodic = checked_cell(cell, pbc)
    found: list[NDArray[np.int64]] = [np.zeros((0, 5), dtype=np.int64)]
    difference = r[None, :, :] - r[:, None, :]  # [i, j] = r_j - r_i
    for shift in images(r, rc, h, periodic):
        vectors = difference + (shift[0] * h[0] + shift[1] * h[1] + shift[2] * h[2])
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        close = x * x + y * y + z * z < rc * rc
        if not shift.any():
            np.fill_diagonal(close, False)
        i, j = np.nonzero(close)
        if i.size:
            found.append(np.column_stack([i, j, np.broadcast_to(shift, (i.size, 3))]))
    edges = np.concatenate(found)
    edges = edges[np.lexsort(edges.T[::-1])]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(edges[:, 0], minlength=len(r)))]).astype(np.int64)
    return NeighborList(edges[:, 1].copy(), edges[:, 0].copy(), edges[:, 2:].astype(np.int32), offsets)


def images(positions: NDArray[np.float64], cutoff: float, cell: NDArray[np.float64],
           pbc: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return [M, 3] every lattice shift that can bring two atoms within `cutoff`, and some more.

    With the dual vectors g_k of the periodic lattice vectors, S_k = (d - (r_j - r_i)).g_k for the
    vector d of a pair, and |d.g_k| < cutoff |g_k|: that bounds S_k.
    """
    ranges = [np.zeros(1, dtype=np.int64)] * 3
    if len(positions) and pbc.any():
        dual = np.linalg.pinv(cell[pbc])  # [3, P], columns g_k
        fractional = positions @ dual
        spread = fractional.max(axis=0) - fractional.min(axis=0)
        reach = np.ceil(spread + cutoff * np.linalg.norm(dual, axis=0)).astype(np.int64) + 1
        for k, m in zip(np.flatnonzero(pbc), reach, strict=True):
            ranges[k] = np.arange(-m, m + 1)
    return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)

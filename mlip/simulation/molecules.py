"""Which atoms belong together: the molecules that a barostat moves as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs
from numpy.typing import NDArray

from mlip.neighbors import NeighborList, neighbor_list

STRETCH = 1.15  # of the sum of the covalent radii: two atoms closer than that are bonded


@dataclass(frozen=True)
class Molecules:
    """The molecules of a structure.

    Attributes:
        label: [N], number of the molecule of each atom, from 0.
        bonds: [B, 2], pairs of bonded atoms that tie the molecules together, no more than needed.
        positions: [N, 3] A, of the atoms with molecules in one piece, not cut by the faces of the cell.
    """

    label: NDArray[np.int64]
    bonds: NDArray[np.int64]
    positions: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of molecules."""
        return int(self.label.max(initial=-1)) + 1


def molecules_of(atoms: Atoms) -> Molecules:
    """Find molecules by the distances of atoms.

    Atoms closer than 1.15 times the sum of their covalent radii are bonded. What is bonded to its own image, a crystal
    or another network without end, is no molecule: there each atom is one of its own.
    """
    radii = STRETCH * np.array(natural_cutoffs(atoms))
    edges = neighbor_list(atoms.positions, 2 * max(float(radii.max(initial=0.0)), 0.1), atoms.cell.array, atoms.pbc)
    vectors = edges.vectors(atoms.positions, atoms.cell.array)
    bonded = np.linalg.norm(vectors, axis=1) < radii[edges.senders] + radii[edges.receivers]
    label = np.full(len(atoms), -1, dtype=np.int64)
    image = np.zeros((len(atoms), 3), dtype=np.int64)  # lattice vectors that bring an atom to its molecule
    bonds: list[tuple[int, int]] = []
    count = 0
    for first in range(len(atoms)):
        if label[first] < 0:
            members, tree, endless = _grow(first, edges, bonded, image)
            if endless:
                image[members] = 0
                label[members] = count + np.arange(len(members))
                count += len(members)
            else:
                label[members] = count
                bonds += tree
                count += 1
    return Molecules(label, np.array(bonds, dtype=np.int64).reshape(-1, 2),
                     atoms.positions + image @ atoms.cell.array)


def _grow(first: int, edges: NeighborList, bonded: NDArray[np.bool_],
          image: NDArray[np.int64]) -> tuple[list[int], list[tuple[int, int]], bool]:
    """Return the atoms bonded to one, directly or not, the bonds that lead there, and whether they have no end."""
    members, seen, tree, endless = [first], {first}, [], False
    for i in members:
        for e in range(edges.offsets[i], edges.offsets[i + 1]):
            if not bonded[e]:
                continue
            j = int(edges.senders[e])
            where = image[i] + edges.shifts[e]
            if j not in seen:
                seen.add(j)
                members.append(j)
                image[j] = where
                tree.append((i, j))
            elif (image[j] != where).any():
                endless = True
    return members, tree, endless

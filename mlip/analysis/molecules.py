"""Bonds and molecules: from a topology, and from distances where it has none."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlip.analysis.trajectory import Motion
from mlip.elements import place
from mlip.neighbors import neighbor_list

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

STRETCH = 1.25  # of the sum of covalent radii, up to which atoms are bonded


@dataclass(frozen=True)
class Molecules:
    """Which atoms belong together, in the first frame.

    Attributes:
        number: [N] the number of the molecule of each atom, from 0.
        neighbors: for each atom, those that it is bonded to, sorted.
        endless: numbers of molecules that are bonded to their own images, such as crystals and layers.
        inferred: how many atoms have bonds by distance.
    """

    number: I8
    neighbors: list[list[int]]
    endless: frozenset[int]
    inferred: int

    @property
    def sizes(self) -> I8:
        """[M] atoms of each molecule."""
        return np.bincount(self.number)

    def largest(self) -> list[int]:
        """Return the atoms of the largest molecule that ends, the first of several; empty without one of 4 atoms."""
        sizes = self.sizes.copy()
        sizes[list(self.endless)] = 0
        chosen = int(np.argmax(sizes))
        return np.flatnonzero(self.number == chosen).tolist() if sizes[chosen] >= 4 else []


def molecules_of(motion: Motion) -> Molecules:
    """Return the molecules of the first frame.

    Atoms that the topology gives no bond are bonded to all within 1.25 times the sum of covalent radii; alkali and
    alkaline earth metals, taken for ions, to none.
    """
    atoms = len(motion.numbers)
    positions, cells = 10.0 * motion.frames.xyz[0].astype(np.float64), motion.cells
    cell = None if cells is None else cells[0]
    known = np.array([(b[0].index, b[1].index) for b in motion.frames.topology.bonds], dtype=np.int64).reshape(-1, 2)
    shifts = np.zeros((len(known), 3))
    if cell is not None and len(known):
        shifts = -np.rint((positions[known[:, 1]] - positions[known[:, 0]]) @ np.linalg.inv(cell))
    bare = np.ones(atoms, dtype=bool)
    bare[known.ravel()] = False
    i, j, shift = _close(motion.numbers, positions, cell)
    new = bare[i] | bare[j]
    ends = np.concatenate([known, known[:, ::-1], np.stack([i, j], axis=1)[new]])
    images = np.concatenate([shifts, -shifts, shift[new]]).astype(np.int64)
    neighbors: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(atoms)]
    for (a, b), image in zip(ends.tolist(), images.tolist(), strict=True):
        neighbors[a].append((b, tuple(image)))
    number, endless = _walk(neighbors)
    partners = [sorted({b for b, _ in bonds}) for bonds in neighbors]
    return Molecules(number, partners, endless, len(np.unique(i[new])))


def _close(numbers: I8, positions: F8, cell: F8 | None) -> tuple[I8, I8, NDArray[np.int32]]:
    """Return pairs i, j by distance, both ways, and the shifts of j."""
    known = np.isin(numbers, np.arange(1, len(covalent_radii)))
    radii = np.where(known, covalent_radii[np.where(known, numbers, 0)], 0.0)
    for z in np.unique(numbers[known]).tolist():
        if z > 1 and place(z)[0] <= 2:
            radii[numbers == z] = 0.0
    largest = 2.0 * STRETCH * float(radii.max(initial=0.0))
    if largest == 0.0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, np.zeros((0, 3), dtype=np.int32)
    senders, receivers, shifts = neighbor_list(positions, largest, cell, cell is not None)
    vectors = positions[senders] - positions[receivers] + (0.0 if cell is None else shifts @ cell)
    near = np.linalg.norm(vectors, axis=1) < STRETCH * (radii[senders] + radii[receivers])
    near &= (radii[senders] > 0) & (radii[receivers] > 0)
    return receivers[near], senders[near], shifts[near]


def _walk(neighbors: list[list[tuple[int, tuple[int, ...]]]]) -> tuple[I8, frozenset[int]]:
    """Return the molecule of each atom, and which molecules come back to an image of themselves."""
    number = np.full(len(neighbors), -1, dtype=np.int64)
    image: list[tuple[int, ...]] = [(0, 0, 0)] * len(neighbors)
    endless, count = set(), 0
    for start in range(len(neighbors)):
        if number[start] >= 0:
            continue
        number[start], waiting = count, deque([start])
        while waiting:
            a = waiting.popleft()
            for b, shift in neighbors[a]:
                there = tuple(x + y for x, y in zip(image[a], shift, strict=True))
                if number[b] < 0:
                    number[b], image[b] = count, there
                    waiting.append(b)
                elif image[b] != there:
                    endless.add(count)
        count += 1
    return number, frozenset(endless)


def whole(motion: Motion, atoms: list[int], molecules: Molecules) -> NDArray[np.float32]:
    """Return the positions [F, A, 3], nm, of the atoms of one molecule, put together along its bonds in every frame."""
    r = motion.frames.xyz[:, atoms].copy()
    cells = motion.frames.unitcell_vectors
    if cells is None:
        return np.asarray(r)
    inverse = np.linalg.inv(cells.astype(np.float64)).astype(np.float32)
    place_of = {atom: k for k, atom in enumerate(atoms)}
    seen, waiting = {atoms[0]}, deque([atoms[0]])
    while waiting:
        a = waiting.popleft()
        for b in molecules.neighbors[a]:
            if b in seen:
                continue
            step = r[:, place_of[b]] - r[:, place_of[a]]
            images = np.rint(np.einsum("fi,fij->fj", step, inverse))
            r[:, place_of[b]] -= np.einsum("fi,fij->fj", images, cells)
            seen.add(b)
            waiting.append(b)
    return np.asarray(r)

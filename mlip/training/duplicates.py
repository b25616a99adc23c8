"""Structures that occur more than once, whatever the order of their atoms, found without comparing all pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlip.graph import Structure

TOLERANCE = 1e-6  # A, of every coordinate and component of the cell
STEP = 1e-5  # of the grid of marks; more than twice what TOLERANCE moves a mark by
WAVES = np.sqrt([[0.2, 0.3, 0.5], [0.5, 0.2, 0.3]]) * [[1, 1, 1], [1, -1, 1]]  # 1/A, of length 1
SIDES = np.array([[0.16, 0.09, 0.13, 0.07, 0.15, 0.11, 0.05, 0.14, 0.1],
                  [0.08, 0.15, 0.06, 0.14, 0.1, 0.12, 0.13, 0.07, 0.15]])  # 1/A, for the cell; their sum is 1


def marks(structure: Structure) -> NDArray[np.float64]:
    """Return two numbers that do not depend on the order of the atoms and hardly on TOLERANCE: by less than STEP / 2.

    They are means over the atoms of waves with an amplitude for each element from 1 to 2, and sums over the periodic
    rows of the cell.
    """
    amplitudes = 1.0 + (structure.numbers * 0.6180339887498949) % 1.0
    waves = np.cos(structure.positions @ WAVES.T + 1.0)
    cell = (structure.cell * structure.pbc[:, None]).ravel()
    return np.asarray(amplitudes @ waves / len(structure) + SIDES @ cell)


def same(a: Structure, b: Structure) -> bool:
    """Tell whether two structures have the same atoms and lattice to TOLERANCE, in any order."""
    if len(a) != len(b) or (a.pbc != b.pbc).any():
        return False
    if (a.total_charge, a.multiplicity, a.head) != (b.total_charge, b.multiplicity, b.head):
        return False
    if np.abs((a.cell - b.cell) * a.pbc[:, None]).max() > TOLERANCE:
        return False
    for order in (lambda s: slice(None), lambda s: np.lexsort((s.positions @ WAVES[0], s.numbers))):
        i, j = order(a), order(b)
        if (a.numbers[i] == b.numbers[j]).all() and np.abs(a.positions[i] - b.positions[j]).max() <= TOLERANCE:
            return True
    return False


def repeated(found: NDArray[np.float64], sizes: NDArray[np.int64],
             structure: Callable[[int], Structure]) -> NDArray[np.int64]:
    """Return for each of n structures the first that is the same: itself where there is none before it.

    Args:
        found: [n, 2] marks.
        sizes: [n] numbers of atoms.
        structure: returns one of them; called for those with equal marks only.
    """
    first = np.arange(len(sizes))
    for shift in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)):  # equal ones share a cell of one of the grids
        cells = np.column_stack([np.floor(found / STEP + shift), sizes])
        order = np.lexsort(cells.T)
        starts = np.flatnonzero(np.append(True, (np.diff(cells[order], axis=0) != 0).any(axis=1)))
        for group in np.split(order, starts[1:]):
            if len(group) > 1:
                _merge(np.sort(group), first, structure)
    while (first[first] != first).any():
        first = first[first]
    return first


def _merge(group: NDArray[np.int64], first: NDArray[np.int64], structure: Callable[[int], Structure]) -> None:
    kept: list[int] = []
    for i in group[first[group] == group].tolist():
        twin = next((k for k in kept if same(structure(k), structure(i))), None)
        if twin is None:
            kept.append(i)
        else:
            first[i] = twin

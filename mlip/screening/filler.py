"""Atoms that stand beside a batch, so that the numbers of one structure do not depend on the others in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlip.graph import Structure
from mlip.neighbors import NeighborList, neighbor_list

ROWS = 32  # two vectors of AVX-512 in float32: shorter ends are computed by other instructions, with other bits
ROWS_OF_ELEMENT = 4  # matrix products of 1 to 3 rows, and in float64 of odd numbers, take other kernels


def filler(structures: Sequence[Structure], edges: Sequence[NeighborList], cutoff: float
           ) -> tuple[Structure, NeighborList]:
    """Return atoms far from each other, and a short chain, that make a batch a round one.

    Matrix products and vectorised functions compute the rows at the end of a tensor by other instructions where their
    number is no multiple of some power of two. With these atoms at the end of a batch, it holds multiples of
    `ROWS_OF_ELEMENT` atoms of each element, and of `ROWS` atoms and pairs of neighbours.

    Args:
        structures: the batch, at least one structure.
        edges: their neighbour lists.
        cutoff: A, of these lists.
    """
    elements, counts = np.unique(np.concatenate([s.numbers for s in structures]), return_counts=True)
    links = -(sum(len(each.senders) for each in edges) // 2) % ROWS
    extra = -counts % ROWS_OF_ELEMENT
    least = int(counts.sum()) + max(int(extra.sum()), links + 1)
    extra[0] += -(-least // ROWS) * ROWS - int((counts + extra).sum())  # again a multiple, as all the others are
    numbers = np.repeat(elements, extra)
    steps = np.where(np.arange(len(numbers)) <= links, 0.7, 2.0)
    positions = np.zeros((len(numbers), 3))
    positions[:, 0] = cutoff * np.cumsum(steps)
    first = structures[0]
    made = Structure.create(numbers, positions, charge=None if first.charge is None else 0,
                            spin=None if first.spin is None else 1, head=first.head)
    return made, neighbor_list(made.positions, cutoff, None, False)

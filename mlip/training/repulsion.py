"""`Repulsion`: two atoms that come closer than any in the data must gain nothing by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.checkpoints.contacts import SIZES
from mlip.graph import Structure, build_graph
from mlip.models import EnergyModel
from mlip.neighbors import neighbor_list
from mlip.nn.derivatives import evaluate

COUNT = 8  # pairs of atoms in each step


@dataclass(frozen=True)
class Repulsion:
    """Pairs of elements, and the distances at which nothing is known of them.

    Where no data reach, a model may find two atoms that are bound by a hundred eV. Beside the errors of labels it can
    learn that there is no such place: the energy of two atoms alone must not fall from the shortest distance in the
    data down to half the sum of their covalent radii, where dynamics stop (`mlip.checkpoints.contacts`).

    Attributes:
        numbers: [P, 2] atomic numbers.
        near: [P] A, where dynamics stop.
        far: [P] A, the shortest distance in the data; the sum of covalent radii of a pair that does not meet there.
    """

    numbers: NDArray[np.int64]
    near: NDArray[np.float64]
    far: NDArray[np.float64]

    @classmethod
    def of(cls, structures: Iterable[Structure], cutoff: float) -> Repulsion:
        """Return the pairs of the elements of some structures, whose distances count below a cutoff, A."""
        closest, elements = np.full((len(SIZES), len(SIZES)), np.inf), set()
        for s in structures:
            elements.update(s.numbers.tolist())
            edges = neighbor_list(s.positions, cutoff, s.cell, s.pbc)
            ends = s.numbers[edges.senders], s.numbers[edges.receivers]
            np.minimum.at(closest, ends, np.linalg.norm(edges.vectors(s.positions, s.cell), axis=1))
        pairs = list(combinations_with_replacement(sorted(elements), 2))
        numbers = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        near, far = SIZES[numbers].sum(axis=1), closest[tuple(numbers.T)]
        far = np.where(np.isinf(far), 2 * near, far)
        return cls(numbers[far > near], near[far > near], far[far > near])

    def gain(self, model: EnergyModel, generator: np.random.Generator, count: int = COUNT) -> Tensor:
        """Return the mean energy, eV, that so many pairs gain by coming closer; they are drawn at random."""
        if not len(self.numbers):
            return torch.zeros(())
        config = model.config
        chosen = generator.integers(len(self.numbers), size=count)
        heads = generator.integers(len(config.heads), size=count)
        directions = generator.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        far = self.far[chosen]
        near = generator.uniform(self.near[chosen], far)

        def pair(i: int, distance: float) -> Structure:
            return Structure.create(self.numbers[chosen[i]], [np.zeros(3), distance * directions[i]],
                                    head=config.heads[heads[i]], **config.usual_state)

        structures = [pair(i, r[i]) for r in (near, far) for i in range(count)]
        graph = build_graph(structures, config.cutoff, heads=config.heads, device=next(model.parameters()).device)
        closer, apart = evaluate(model, graph, forces=False, training=True).energy.chunk(2)
        return torch.relu(apart.detach() - closer).mean()

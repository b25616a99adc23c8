"""Batches of labelled structures, with neighbour lists made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.graph import AtomGraph
from mlip.graph.labelled import Labelled
from mlip.neighbors import neighbor_list

Example = TypeVar("Example")


@dataclass(frozen=True)
class Batch:
    """Structures and their labels.

    Attributes:
        graph: B structures, N atoms.
        energy: [B] float64, eV.
        forces: [N, 3] eV/A.
        sizes: [B] float64, atoms of each structure.
    """

    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    sizes: Tensor


class Dataset:
    """Labelled structures whose neighbour lists are kept."""

    def __init__(self, examples: Sequence[Labelled], potential: Potential) -> None:
        self.examples = list(examples)
        self.potential = potential
        self.edges = [neighbor_list(e.structure.positions, potential.cutoff, e.structure.cell, e.structure.pbc)
                      for e in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return some of the examples as one batch."""
        chosen = [self.examples[i] for i in indices]
        graph = self.potential.graph([e.structure for e in chosen], [self.edges[i] for i in indices])
        device = graph.positions.device
        return Batch(graph, torch.tensor([e.energy for e in chosen], dtype=torch.float64, device=device),
                     torch.from_numpy(np.concatenate([e.forces for e in chosen])).to(graph.positions),
                     torch.tensor([len(e.structure) for e in chosen], dtype=torch.float64, device=device))

    def batches(self, size: int, generator: np.random.Generator | None = None) -> Iterator[Batch]:
        """Yield all examples in batches, shuffled if a generator is given."""
        order = np.arange(len(self)) if generator is None else generator.permutation(len(self))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size].tolist())

    def mean_neighbors(self) -> float:
        """Return the mean number of neighbours of an atom."""
        atoms = sum(len(e.structure) for e in self.examples)
        return sum(len(e.senders) for e in self.edges) / max(atoms, 1)


def fingerprint(examples: Sequence[Labelled]) -> str:
    """Return a sha256 of structures and labels, to tell data sets apart."""
    digest = hashlib.sha256()
    for e in examples:
        s = e.structure
        for array in (s.numbers, s.positions, s.cell, s.pbc, np.float64(e.energy), e.forces, e.stress):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(repr((s.total_charge, s.multiplicity, s.head)).encode())
    return digest.hexdigest()


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return (training, validation) examples, or indices of a range of them, drawn at random.

    Raises:
        OptionError: too few examples for both parts.
    """
    held_out = max(1, round(fraction * len(examples)))
    if len(examples) - held_out < 1:
        raise OptionError(f"{len(examples)} structure(s) are too few to train on and to validate with")
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[held_out:]], [examples[i] for i in order[:held_out]]

"""Batches of labelled structures."""

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
from mlip.graph import AtomGraph, Structure
from mlip.graph.labelled import Labelled
from mlip.neighbors import neighbor_list

Example = TypeVar("Example")
SAMPLE = 1000  # structures whose neighbours are searched before the first step


@dataclass(frozen=True)
class Batch:
    """Structures and their labels.

    Attributes:
        graph: B structures, N atoms.
        energy: [B] float64, eV.
        forces: [N, 3] float64, eV/A; NaN where they are not known.
        stress: [B, 3, 3] float64, eV/A^3; NaN where it is not known.
        sizes: [B] float64, atoms of each structure.
        structures: B, of which the graph was made; none for graphs that were made of another graph.
        config_types: B names of the groups they belong to.
    """

    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    stress: Tensor
    sizes: Tensor
    structures: tuple[Structure, ...] = ()
    config_types: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        energy, forces, stress, sizes = (x.to(device) for x in (self.energy, self.forces, self.stress, self.sizes))
        return Batch(self.graph.to(device), energy, forces, stress, sizes, self.structures, self.config_types)


class Dataset:
    """Labelled structures and the potential whose batches they become; neighbour lists are made for each batch."""

    def __init__(self, examples: Sequence[Labelled], potential: Potential) -> None:
        self.examples = examples
        self.potential = potential

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return some of the examples as one batch."""
        chosen = [self.examples[i] for i in indices]
        graph = self.potential.graph([e.structure for e in chosen])
        labels = ([e.energy for e in chosen],
                  np.concatenate([np.full((len(e.structure), 3), np.nan) if e.forces is None else e.forces
                                  for e in chosen]),
                  np.stack([np.full((3, 3), np.nan) if e.stress is None else e.stress for e in chosen]),
                  [len(e.structure) for e in chosen])
        device = graph.positions.device
        energy, forces, stress, sizes = (torch.as_tensor(label, dtype=torch.float64, device=device) for label in labels)
        return Batch(graph, energy, forces, stress, sizes, tuple(e.structure for e in chosen),
                     tuple(e.config_type for e in chosen))

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all examples in batches, in their order."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))

    def sample(self) -> list[Structure]:
        """Return up to 1 000 structures, evenly spread."""
        places = np.linspace(0, len(self) - 1, min(len(self), SAMPLE)).round().astype(int)
        return [self.examples[i].structure for i in places]

    def mean_neighbors(self) -> float:
        """Return the mean number of neighbours of an atom in a sample."""
        some = self.sample()
        edges = sum(len(neighbor_list(s.positions, self.potential.cutoff, s.cell, s.pbc).senders) for s in some)
        return edges / max(sum(map(len, some)), 1)


def fingerprint(examples: Sequence[Labelled]) -> str:
    """Return a sha256 of structures and labels in their order, to tell data sets apart."""
    digest = hashlib.sha256()
    for e in examples:
        s = e.structure
        for array in (s.numbers, s.positions, s.cell, s.pbc, np.float64(e.energy), e.forces, e.stress):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(repr((s.total_charge, s.multiplicity, s.head)).encode())
    return digest.hexdigest()


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return (training, validation) examples, or indices of a range of them, drawn at random.

    Args:
        examples: at least two.
        fraction: share of the second part, between 0 and 1.
        seed: of the draw.

    Raises:
        OptionError: too few examples for both parts, or a fraction that is none.
    """
    if not 0 < fraction < 1:
        raise OptionError(f"the share of structures to validate with must lie between 0 and 1; {fraction!r} was given")
    held_out = max(1, round(fraction * len(examples)))
    if len(examples) - held_out < 1:
        raise OptionError(f"{len(examples)} structure(s) are too few to train on and to validate with")
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[held_out:]], [examples[i] for i in order[:held_out]]

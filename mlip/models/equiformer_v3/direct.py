"""EquiformerV3 with heads for forces and stress, and what is needed to train it to denoise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from mlip.errors import OptionError
from mlip.graph import AtomGraph
from mlip.models.equiformer_v3.attention import GraphAttention
from mlip.models.equiformer_v3.blocks import DegreeMap
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.models.equiformer_v3.heads import StressHead, symmetric_matrix
from mlip.models.equiformer_v3.model import EquiformerV3, atoms_of
from mlip.models.equiformer_v3.neighbourhood import Neighbourhood
from mlip.nn.derivatives import DirectPrediction
from mlip.ops import spherical_harmonics


@dataclass(frozen=True)
class Denoising:
    """What DeNS adds to a structure whose atoms were moved at random (arXiv 2403.09549).

    Attributes:
        forces: [N, 3], eV/A, the forces before the atoms were moved.
        moved: [N] bool, which atoms were.
    """

    forces: Tensor
    moved: Tensor


class DirectEquiformerV3(EquiformerV3):
    """EquiformerV3 that predicts forces and stress by heads of their own: they are the derivatives of no energy."""

    force_scale: Tensor
    stress_scale: Tensor

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__(config)
        self.forces = GraphAttention(config, 1, "gate")
        self.stress = StressHead(config)
        if config.denoising:
            self.force_embedding = DegreeMap(config.lmax, 1, config.channels)
            self.denoise = GraphAttention(config, 1, "gate")
        for name in ("force_scale", "stress_scale"):
            self.register_buffer(name, torch.ones(1, dtype=torch.float32))

    @property
    def conservative(self) -> bool:
        """Whether its forces and stress are derivatives of its energy: False."""
        return False

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the heads of energy, forces and stress, and of the noise."""
        heads = [self.energy, self.forces, self.stress, *([self.denoise] if self.config.denoising else [])]
        return (weight for head in heads for weight in head.parameters())

    def predict(self, graph: AtomGraph) -> DirectPrediction:
        """Return energies, forces and stress of a batch."""
        edges = self.neighbourhood(graph)
        x = self.features(graph, edges)
        return DirectPrediction(self.energies(graph, x), self._forces(x, edges), self._stress(graph, x))

    def denoised(self, graph: AtomGraph, noise: Denoising) -> DirectPrediction:
        """Return what is trained on a structure with moved atoms.

        The forces before the move enter the features of the moved atoms as component-normalised harmonics of their
        directions, times |F| / sqrt(3).

        Args:
            graph: with the moved atoms.
            noise: which were moved, and their forces.

        Returns:
            What `predict` does of structures without moved atoms. For moved atoms, the prediction of the displacement
            over the standard deviation of the noise takes the place of the force.

        Raises:
            OptionError: a model without denoising.
        """
        if not self.config.denoising:
            raise OptionError("this model was made without denoising; make it with denoising=True")
        edges = self.neighbourhood(graph)
        moved = noise.moved[:, None, None]
        known = torch.where(noise.moved[:, None], noise.forces.to(self.dtype), 0.0)
        size = torch.linalg.vector_norm(known, dim=1, keepdim=True)
        direction = torch.where(size > 0, known, torch.ones_like(known))  # of zero forces: any, it is multiplied by 0
        signal = spherical_harmonics(direction, self.config.lmax, self.backend) * size / sqrt(3)
        x = self.embed(self.element_index(graph.numbers), edges)
        x = self._behind_blocks(x + torch.where(moved, self.force_embedding(signal.unsqueeze(2)), 0.0), edges)
        vectors = torch.where(noise.moved[:, None], self._vectors(self.denoise, x, edges), self._forces(x, edges))
        return DirectPrediction(self.energies(graph, x), vectors, self._stress(graph, x))

    def _forces(self, x: Tensor, edges: Neighbourhood) -> Tensor:
        """Return [N, 3], eV/A."""
        return self.force_scale * self._vectors(self.forces, x, edges)

    def _stress(self, graph: AtomGraph, x: Tensor) -> Tensor:
        """Return [B, 3, 3], eV/A^3."""
        return self.stress_scale * symmetric_matrix(self.stress(x, graph.batch, atoms_of(graph, x)))

    def _vectors(self, head: GraphAttention, x: Tensor, edges: Neighbourhood) -> Tensor:
        """Return [N, 3], the result of degree 1 of a head."""
        out: Tensor = head(x, edges, self.backend)[:, 1:4, 0]
        return out

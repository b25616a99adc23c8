"""Training of direct EquiformerV3 on structures whose atoms were moved at random (DeNS, arXiv 2403.09549)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.graph import AtomGraph, build_graph
from mlip.models import EnergyModel
from mlip.models.equiformer_v3 import Denoising, DirectEquiformerV3
from mlip.nn.derivatives import DirectPrediction, evaluate
from mlip.training.config import MOST_MOVED, DenoisingConfig, TrainingConfig
from mlip.training.data import Batch
from mlip.training.losses import penalty
from mlip.training.objective import Objective


@dataclasses.dataclass(frozen=True)
class Noised:
    """A batch with moved atoms.

    Attributes:
        batch: with neighbour lists of the new positions, and the labels of the old ones; without the stress of
            structures that were noised.
        moved: [N] bool, which atoms were moved.
        target: [N, 3], displacements over their standard deviation; 0 for atoms that were not moved.
    """

    batch: Batch
    moved: Tensor
    target: Tensor


def noised(batch: Batch, config: DenoisingConfig, model: EnergyModel, generator: np.random.Generator) -> Noised:
    """Move atoms of a batch at random.

    Args:
        batch: as it comes from a `Dataset`.
        config: which structures and atoms are moved, and how far; never those whose forces are not all known.
        model: its cutoff and heads are those of the new graph.
        generator: everything is drawn from it: what is drawn depends on the sizes of the batch alone.
    """
    graph = batch.graph
    atoms = graph.num_atoms
    chosen, drawn, target = (torch.from_numpy(x).to(graph.positions.device) for x in (
        generator.random(graph.num_structures) < config.probability, generator.random(atoms) < config.fraction,
        generator.standard_normal((atoms, 3))))

    def count(flags: Tensor) -> Tensor:
        """Return [B], how many atoms of each structure have a flag."""
        return torch.zeros_like(batch.sizes).index_add(0, graph.batch, flags.to(batch.sizes))

    limit = math.inf if config.max_force is None else config.max_force
    usable = torch.linalg.vector_norm(batch.forces, dim=1) <= limit  # not where they are NaN
    chosen = chosen & (count(drawn) <= MOST_MOVED * batch.sizes) & (count(~usable) == 0)
    moved = drawn & chosen[graph.batch]
    target = torch.where(moved[:, None], target, 0.0)
    positions = (graph.positions + config.std * target).cpu().numpy()
    bounds = np.cumsum([len(s) for s in batch.structures])[:-1]
    structures = tuple(dataclasses.replace(s, positions=r)
                       for s, r in zip(batch.structures, np.split(positions, bounds), strict=True))
    new = build_graph(structures, model.config.cutoff, heads=model.config.heads, device=graph.positions.device)
    stress = torch.where((count(moved) > 0)[:, None, None], torch.nan, batch.stress)
    return Noised(dataclasses.replace(batch, graph=new, structures=structures, stress=stress), moved, target)


class DenoisingObjective(Objective):
    """Errors of energies and forces, some of them of structures with moved atoms, and of their displacements.

    The model is told the forces that moved atoms had, and has to tell where they came from: `weight` times the mean
    length of the errors of the displacements is added. The energies of noised structures are those before the noise.
    Both means are over all atoms, so that errors of forces and of displacements count in the shares of their atoms.
    Noise is drawn for each structure, where the published code draws for each batch.
    """

    def __init__(self, model: EnergyModel, config: TrainingConfig) -> None:
        super().__init__(config)
        if not isinstance(model, DirectEquiformerV3) or not model.config.denoising:
            raise OptionError("training: denoising is for models of the family equiformer_v3 made with forces='direct' "
                              f"and denoising=True; make one, or leave denoising out for this {model.config.family}")
        assert config.denoising is not None
        self.denoising = config.denoising

    def forward(self, model: EnergyModel, batch: Batch, generator: np.random.Generator) -> Tensor:
        """Return the loss of a batch; the noise comes from the generator."""
        assert isinstance(model, DirectEquiformerV3)
        noise = noised(batch, self.denoising, model, generator)
        told = _Told(model, Denoising(batch.forces, noise.moved))
        loss = self.errors(evaluate(told, noise.batch.graph, training=True, **self.wanted), noise.batch)
        missed = torch.where(noise.moved[:, None], told.vectors - noise.target, 0.0)
        return loss + self.denoising.weight * penalty("l2", missed)


class _Told:
    """A model that is told the forces of moved atoms: they have no errors; its vectors are kept for the loss."""

    vectors: Tensor

    def __init__(self, model: DirectEquiformerV3, noise: Denoising) -> None:
        self.model, self.noise = model, noise

    def __call__(self, graph: AtomGraph) -> Tensor:
        return self.predict(graph).interaction

    def predict(self, graph: AtomGraph) -> DirectPrediction:
        found = self.model.denoised(graph, self.noise)
        self.vectors = found.forces
        return dataclasses.replace(found, forces=torch.where(self.noise.moved[:, None], self.noise.forces,
                                                             found.forces.to(self.noise.forces)))

    def isolated_energies(self, graph: AtomGraph) -> Tensor:
        return self.model.isolated_energies(graph)

"""What training minimises: errors of energies and forces, of models that do not know rotations in two orientations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from mlip.errors import OptionError
from mlip.graph import AtomGraph, turned, turned_each
from mlip.models import EnergyModel
from mlip.models.transip import DirectTransIP, TransIP
from mlip.nn.derivatives import BatchPrediction, DirectPrediction, evaluate
from mlip.nn.linear import normal
from mlip.so3.rotation_groups import random_rotations
from mlip.training.config import Stage, TrainingConfig
from mlip.training.data import Batch
from mlip.training.losses import known, known_difference, penalty


def objective_for(model: EnergyModel, config: TrainingConfig) -> Objective:
    """Return what a model is trained for.

    Raises:
        OptionError: weights of symmetry for a model that is symmetric by construction; a weight of the torque for one
            whose forces are derivatives of no energy; `denoising` for a model that was not made for it.
    """
    if model.rotation_invariant and (config.latent_weight or config.torque_weight):
        raise OptionError("training: latent_weight and torque_weight are for models that learn rotations; those of "
                          f"the family {model.config.family} know them: leave both at 0")
    if config.denoising is not None:
        from mlip.training.denoising import DenoisingObjective  # is an Objective itself

        return DenoisingObjective(model, config)
    if model.rotation_invariant:
        return Objective(config)
    assert isinstance(model, TransIP)
    if not model.conservative and config.torque_weight:
        raise OptionError("training: torque_weight needs forces that are derivatives of the energy, which those of "
                          "forces='direct' are not: leave it at 0")
    return TwoViews(model.config.channels, config)


class Objective(nn.Module):
    """The weighted sum of the errors of energies per atom, of forces and of the stress.

    Attributes:
        stage: whose weights and kinds of errors count; the trainer changes it as the run goes on.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.stage: Stage = config.parts[0]

    def forward(self, model: EnergyModel, batch: Batch, generator: np.random.Generator) -> Tensor:
        """Return the loss of a batch; what is drawn at random comes from the generator."""
        return self.errors(evaluate(model, batch.graph, training=True, **self.wanted), batch)

    @property
    def wanted(self) -> dict[str, bool]:
        """What has to be evaluated for the errors, as arguments of `evaluate`."""
        return {"forces": self.stage.forces_weight > 0, "stress": self.stage.stress_weight > 0}

    def errors(self, result: BatchPrediction, batch: Batch) -> Tensor:
        """Return the loss of predictions."""
        stage, delta, weights = self.stage, self.stage.huber_delta, self._weights(batch)
        loss = result.energy.new_zeros(())
        if stage.energy_weight:
            energy = (result.energy - batch.energy) / batch.sizes
            loss = loss + stage.energy_weight * penalty(stage.energy_loss, energy, delta, weights)
        if result.forces is not None:
            forces = known_difference(result.forces, batch.forces)
            atoms = None if weights is None else weights[batch.graph.batch][known(batch.forces)]
            loss = loss + stage.forces_weight * penalty(stage.forces_loss, forces, delta, atoms)
        if result.stress is not None:
            stress = known_difference(result.stress, batch.stress)
            weights = None if weights is None else weights[known(batch.stress)]
            loss = loss + stage.stress_weight * penalty(stage.stress_loss, stress, delta, weights)
        return loss

    def _weights(self, batch: Batch) -> Tensor | None:
        """Return [B], what the errors of each structure count in this stage; None where all count 1."""
        if not (weights := self.stage.config_weights):
            return None
        return batch.energy.new_tensor([weights.get(name, 1.0) for name in batch.config_types])


class TwoViews(Objective):
    """Errors in two random orientations, how far their embeddings are from each other, and the torque.

    The loss of TransIP (arXiv 2510.00027): with z_a and z_b the pooled embeddings of a structure turned by two random
    rotations and T the learned `Transformation`, `latent_weight` times the mean square of T(z_a, b a^-1) - z_b and of
    the same with a and b exchanged is added to the errors of both views. Without it, this is training with random
    orientations. `torque_weight` times the mean length of the derivative of the energy by a rotation, which symmetry
    makes 0, may be added (as Orb-v3 does, arXiv 2504.06231).
    """

    def __init__(self, channels: int, config: TrainingConfig) -> None:
        super().__init__(config)
        self.transformation = Transformation(channels)

    def forward(self, model: EnergyModel, batch: Batch, generator: np.random.Generator) -> Tensor:
        """Return the loss of a batch; rotations come from the generator."""
        assert isinstance(model, TransIP)
        rotations = self._rotations(batch, generator)
        views = _turned_batch(batch, rotations)
        watched = (_WatchedDirect if isinstance(model, DirectTransIP) else _Watched)(model)
        result = evaluate(watched, views.graph, training=True, torque=self.config.torque_weight > 0, **self.wanted)
        loss = self.errors(result, views)
        if self.config.latent_weight:
            first, second = model.pooled(views.graph, watched.features).chunk(2)
            loss = loss + self.config.latent_weight * self.apart(first, second, rotations.to(first))
        if result.torque is not None:
            loss = loss + self.config.torque_weight * torch.linalg.vector_norm(result.torque, dim=1).mean()
        return loss

    def apart(self, first: Tensor, second: Tensor, rotations: Tensor) -> Tensor:
        """Return how badly the embeddings of two views [B, C] tell each other, given their rotations [2, B, 3, 3]."""
        between = rotations[0].mT @ rotations[1]  # positions are rows: those of the first view times this
        forth: Tensor = self.transformation(first, between) - second
        back: Tensor = self.transformation(second, between.mT) - first
        return 0.5 * (forth.square().mean() + back.square().mean())

    @staticmethod
    def _rotations(batch: Batch, generator: np.random.Generator) -> Tensor:
        count = batch.graph.num_structures
        drawn = random_rotations(2 * count, generator).reshape(2, count, 3, 3)
        return torch.from_numpy(drawn).to(batch.graph.positions.device)


class Transformation(nn.Module):
    """What a rotation does to an embedding: two linear maps, before training the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = channels + 9
        self.hidden = nn.Parameter(normal(inputs, 2 * channels) / inputs**0.5)
        self.output = nn.Parameter(torch.zeros(2 * channels, channels, dtype=torch.float32))

    def forward(self, z: Tensor, rotations: Tensor) -> Tensor:
        """Return [B, C] for embeddings z [B, C] and rotations [B, 3, 3]."""
        turn = (rotations - torch.eye(3, dtype=z.dtype, device=z.device)).flatten(1)
        known = torch.cat([layer_norm(z, z.shape[1:]), turn], dim=1)
        return z + silu(known @ self.hidden) @ self.output


class _Watched:
    """A model whose last channels are kept for the loss."""

    features: Tensor

    def __init__(self, model: TransIP) -> None:
        self.model = model

    def __call__(self, graph: AtomGraph) -> Tensor:
        self.features = self.model.features(graph)
        return self.model.energies(self.features)

    def isolated_energies(self, graph: AtomGraph) -> Tensor:
        return self.model.isolated_energies(graph)


class _WatchedDirect(_Watched):
    model: DirectTransIP

    def predict(self, graph: AtomGraph) -> DirectPrediction:
        self.features = self.model.features(graph)
        return self.model.predictions(graph, self.features)


def _turned_batch(batch: Batch, rotations: Tensor) -> Batch:
    """Return a batch of as many views of each structure as there are rotations, [G, B, 3, 3]; views are outermost."""
    views = len(rotations)
    forces = torch.einsum("nd,gnde->gne", batch.forces, rotations[:, batch.graph.batch])
    copies = turned(batch.graph, torch.eye(3).expand(views, 3, 3))
    stress = rotations.mT @ batch.stress @ rotations
    return Batch(turned_each(copies, rotations.flatten(0, 1)), batch.energy.repeat(views), forces.flatten(0, 1),
                 stress.flatten(0, 1), batch.sizes.repeat(views), config_types=batch.config_types * views)

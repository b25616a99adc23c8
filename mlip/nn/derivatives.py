"""The only place where an energy becomes forces and stress."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mlip.graph import AtomGraph


class EnergyFunction(Protocol):
    """What can be differentiated here; `mlip.models.base.EnergyModel` is one."""

    def __call__(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] eV."""

    def isolated_energies(self, graph: AtomGraph) -> Tensor:
        """Return the isolated-atom energy of each atom, [N] float64 eV."""


@dataclass(frozen=True)
class DirectPrediction:
    """What a model says that predicts forces and stress instead of an energy to be differentiated.

    Attributes:
        interaction: [N] eV, energies without the isolated-atom part.
        forces: [N, 3] eV/A.
        stress: [B, 3, 3] eV/A^3, positive under tension.
    """

    interaction: Tensor
    forces: Tensor
    stress: Tensor


@runtime_checkable
class DirectFunction(Protocol):
    """A model whose forces and stress are not derivatives."""

    def predict(self, graph: AtomGraph) -> DirectPrediction:
        """Return energies, forces and stress."""


@dataclass(frozen=True)
class BatchPrediction:
    """Predictions for B structures with N atoms.

    Attributes:
        energy: [B] float64, eV.
        energies: [N] float64, eV, energy of each atom.
        forces: [N, 3] float64, eV/A, or None.
        stress: [B, 3, 3] float64, eV/A^3, dE/dstrain/V, positive under tension; NaN where a structure has no
            volume; or None.
        interaction: [N] eV, energies without the isolated-atom part, in the dtype of the model.
        torque: [B, 3] float64, eV, -dE/dtheta for a rotation by theta of positions and cell, zero where the energy is
            invariant; of a molecule the sum of r x F; or None.
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None
    stress: Tensor | None
    interaction: Tensor
    torque: Tensor | None = None


def evaluate(model: EnergyFunction, graph: AtomGraph, *, forces: bool = True, stress: bool = False,
             torque: bool = False, training: bool = False) -> BatchPrediction:
    """Evaluate a model and, by one backward pass, the derivatives of its energy.

    A deformation e acts on positions and cell, r -> r (1 + e); forces are -dE/dr, and at e = 0 the symmetric part of
    dE/de over the volume is the stress (Knuth et al., Comput. Phys. Commun. 190, 33 (2015)), the antisymmetric part
    the torque. Models that predict forces and stress by themselves (`DirectFunction`) are only asked for them, and
    have no torque.

    Args:
        model: energies come from `model(graph)` and `model.isolated_energies(graph)`.
        graph: on the device of the model.
        forces: whether to return forces.
        stress: whether to return the stress.
        torque: whether to return the torque.
        training: keep the graph of the derivatives, so that a loss on forces or torques can be differentiated.

    Returns:
        Tensors detached from the autograd graph unless `training`.
    """
    if isinstance(model, DirectFunction):
        return _direct(model, model.isolated_energies(graph), graph, forces, stress, training)
    deformed = stress or torque
    derive = forces or deformed
    with torch.inference_mode(False), torch.set_grad_enabled(derive or training):
        graph = _differentiable(graph)
        positions = graph.positions.detach().requires_grad_(derive)
        strain = torch.zeros_like(graph.cell, requires_grad=deformed)
        strained = graph.replace(positions=positions)
        if deformed:
            deform = torch.eye(3, dtype=strain.dtype, device=strain.device) + strain
            strained = graph.replace(
                positions=torch.einsum("nd,nde->ne", positions, deform[graph.batch]), cell=graph.cell @ deform)
        interaction = model(strained)
        inputs = [positions, strain] if deformed else [positions]
        gradients = _gradients(interaction, inputs, training) if derive else ()
    result = _prediction(
        graph, model.isolated_energies(graph), interaction, -gradients[0] if forces else None,
        _stress(gradients[1], graph.volume) if stress else None, _torque(gradients[1]) if torque else None)
    return result if training else _detached(result)


def _direct(model: DirectFunction, isolated: Tensor, graph: AtomGraph, forces: bool, stress: bool,
            training: bool) -> BatchPrediction:
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        found = model.predict(_differentiable(graph))
    volume = graph.volume[:, None, None]
    result = _prediction(graph, isolated, found.interaction, found.forces.to(torch.float64) if forces else None,
                         found.stress.to(torch.float64).masked_fill(torch.isnan(volume), torch.nan) if stress else None)
    return result if training else _detached(result)


def _prediction(graph: AtomGraph, isolated: Tensor, interaction: Tensor, forces: Tensor | None, stress: Tensor | None,
                torque: Tensor | None = None) -> BatchPrediction:
    energies = interaction.to(torch.float64) + isolated
    energy = energies.new_zeros(graph.num_structures).index_add(0, graph.batch, energies)
    return BatchPrediction(energy, energies, forces, stress, interaction, torque)


def _differentiable(graph: AtomGraph) -> AtomGraph:
    """Copy what was made in the inference mode of a caller: its derivatives would silently be zero."""
    tensors = {field.name: getattr(graph, field.name) for field in dataclasses.fields(graph)}
    return graph.replace(**{name: tensor.clone() for name, tensor in tensors.items() if tensor.is_inference()})


def _gradients(interaction: Tensor, inputs: list[Tensor], training: bool) -> tuple[Tensor, ...]:
    if not interaction.requires_grad:  # no edge, so no dependence on positions
        return tuple(torch.zeros_like(x) for x in inputs)
    grads = torch.autograd.grad(interaction.sum(), inputs, create_graph=training, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True))


def _stress(virial: Tensor, volume: Tensor) -> Tensor:
    """Divide the symmetric part of [B, 3, 3] by [B]; where there is no volume it is NaN, but its derivative is zero."""
    absent = torch.isnan(volume)[:, None, None]
    symmetric = 0.5 * (virial + virial.mT)
    return (symmetric / volume.nan_to_num(nan=1.0)[:, None, None]).masked_fill(absent, torch.nan)


def _torque(virial: Tensor) -> Tensor:
    """Return [B, 3] of dE/d(deformation), [B, 3, 3]: turning by theta deforms by e_xy = theta_z = -e_yx and so on."""
    twist = virial.mT - virial
    return torch.stack([twist[:, 1, 2], twist[:, 2, 0], twist[:, 0, 1]], dim=1)


def _detached(p: BatchPrediction) -> BatchPrediction:
    forces, stress, torque = (None if x is None else x.detach() for x in (p.forces, p.stress, p.torque))
    return BatchPrediction(p.energy.detach(), p.energies.detach(), forces, stress, p.interaction.detach(), torque)

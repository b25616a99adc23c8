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
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None
    stress: Tensor | None
    interaction: Tensor


def evaluate(model: EnergyFunction, graph: AtomGraph, *, forces: bool = True, stress: bool = False,
             training: bool = False) -> BatchPrediction:
    """Evaluate a model and, by one backward pass, the derivatives of its energy.

    A symmetric strain e acts on positions and cell, r -> r (1 + e); forces are -dE/dr and the stress
    is dE/de / V at e = 0 (Knuth et al., Comput. Phys. Commun. 190, 33 (2015)). Models that predict forces and stress
    by themselves (`DirectFunction`) are only asked for them.

    Args:
        model: energies come from `model(graph)` and `model.isolated_energies(graph)`.
        graph: on the device of the model.
        forces: whether to return forces.
        stress: whether to return the stress.
        training: keep the graph of the derivatives, so that a loss on forces can be differentiated.

    Returns:
        Tensors detached from the autograd graph unless `training`.
    """
    if isinstance(model, DirectFunction):
        return _direct(model, model.isolated_energies(graph), graph, forces, stress, training)
    derive = forces or stress
    with torch.inference_mode(False), torch.set_grad_enabled(derive or training):
        graph = _differentiable(graph)
        positions = graph.positions.detach().requires_grad_(derive)
        strain = torch.zeros_like(graph.cell, requires_grad=stress)
        strained = graph.replace(positions=positions)
        if stress:
            deform = torch.eye(3, dtype=strain.dtype, device=strain.device) + 0.5 * (strain + strain.mT)
            strained = graph.replace(
                positions=torch.einsum("nd,nde->ne", positions, deform[graph.batch]), cell=graph.cell @ deform)
        interaction = model(strained)
        gradients: tuple[Tensor | None, ...] = (None, None)
        if derive:
            gradients = _gradients(interaction, [positions, strain] if stress else [positions], training)
    return _prediction(
        graph, model.isolated_energies(graph), interaction,
        -gradients[0] if forces and gradients[0] is not None else None,
        _per_volume(gradients[1], graph.volume) if stress and gradients[1] is not None else None, training)


def _direct(model: DirectFunction, isolated: Tensor, graph: AtomGraph, forces: bool, stress: bool,
            training: bool) -> BatchPrediction:
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        found = model.predict(_differentiable(graph))
    volume = graph.volume[:, None, None]
    return _prediction(graph, isolated, found.interaction, found.forces.to(torch.float64) if forces else None,
                       found.stress.to(torch.float64).masked_fill(torch.isnan(volume), torch.nan) if stress else None,
                       training)


def _prediction(graph: AtomGraph, isolated: Tensor, interaction: Tensor, forces: Tensor | None, stress: Tensor | None,
                training: bool) -> BatchPrediction:
    energies = interaction.to(torch.float64) + isolated
    energy = energies.new_zeros(graph.num_structures).index_add(0, graph.batch, energies)
    result = BatchPrediction(energy, energies, forces, stress, interaction)
    return result if training else _detached(result)


def _differentiable(graph: AtomGraph) -> AtomGraph:
    """Copy what was made in the inference mode of a caller: its derivatives would silently be zero."""
    tensors = {field.name: getattr(graph, field.name) for field in dataclasses.fields(graph)}
    return graph.replace(**{name: tensor.clone() for name, tensor in tensors.items() if tensor.is_inference()})


def _gradients(interaction: Tensor, inputs: list[Tensor], training: bool) -> tuple[Tensor, ...]:
    if not interaction.requires_grad:  # no edge, so no dependence on positions
        return tuple(torch.zeros_like(x) for x in inputs)
    grads = torch.autograd.grad(interaction.sum(), inputs, create_graph=training, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True))


def _per_volume(virial: Tensor, volume: Tensor) -> Tensor:
    """Divide [B, 3, 3] by [B]; where there is no volume the result is NaN, but its derivative zero and not NaN."""
    absent = torch.isnan(volume)[:, None, None]
    return (virial / volume.nan_to_num(nan=1.0)[:, None, None]).masked_fill(absent, torch.nan)


def _detached(p: BatchPrediction) -> BatchPrediction:
    return BatchPrediction(p.energy.detach(), p.energies.detach(),
                           None if p.forces is None else p.forces.detach(),
                           None if p.stress is None else p.stress.detach(), p.interaction.detach())

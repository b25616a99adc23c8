"""How far a model is from invariance under rotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.errors import OptionError
from mlip.graph import AtomGraph, turned
from mlip.models.base import EnergyModel
from mlip.nn.derivatives import evaluate
from mlip.so3.rotation_groups import random_rotations

Array = NDArray[np.float64]

MOST_ATOMS = 4096  # evaluated at once


@dataclass(frozen=True)
class SymmetryReport:
    """Deviations of one structure's predictions over rotations, each turned back; zero for an equivariant model.

    Attributes:
        atoms: number of atoms N.
        rotations: number of random rotations.
        precision: of the model, in which rounding alone deviates.
        energy_rot_std: standard deviation of the energy, eV.
        forces_rot_std: root mean square, over rotations, atoms and components, of the deviation of the forces from
            their mean over rotations, eV/A.
        force_error_relative: the same over the root mean square of the mean forces.
        stress_rot_std: as `forces_rot_std`, eV/A^3; None where the structure has no volume.
        torque: largest component of -dE/dtheta, for a molecule the sum of r x F, over all rotations, eV; None where
            forces are no derivatives of an energy.
    """

    atoms: int
    rotations: int
    precision: str
    energy_rot_std: float
    forces_rot_std: float
    force_error_relative: float
    stress_rot_std: float | None
    torque: float | None

    @property
    def energy_rot_std_per_atom(self) -> float:
        """Standard deviation of the energy, meV/atom."""
        return 1000 * self.energy_rot_std / max(self.atoms, 1)

    def __str__(self) -> str:
        rows = [("energy_rot_std", self.energy_rot_std, "eV"), ("", self.energy_rot_std_per_atom, "meV/atom"),
                ("forces_rot_std", self.forces_rot_std, "eV/A"),
                ("force_error_relative", self.force_error_relative, "of the mean forces"),
                ("stress_rot_std", self.stress_rot_std, "eV/A^3"), ("torque", self.torque, "eV")]
        return "\n".join([f"{self.atoms} atoms under {self.rotations} random rotations, in {self.precision}",
                          *(f"{name:22}{'-':>12}" if value is None else f"{name:22}{value:>12.3e} {unit}"
                            for name, value, unit in rows)])


def symmetry_reports(model: EnergyModel, graph: AtomGraph, rotations: int = 64, seed: int = 0
                     ) -> list[SymmetryReport]:
    """Return how much the predictions of a model change under random rotations, for each structure of a batch.

    The turned copies share the neighbour lists and are evaluated in batches, in the precision of the model.

    Args:
        model: any.
        graph: B structures.
        rotations: number of rotations, at least 2.
        seed: of the rotations.

    Raises:
        OptionError: fewer than two rotations.
    """
    if type(rotations) is not int or rotations < 2:
        raise OptionError(f"rotations={rotations!r}; a deviation needs a whole number of rotations, at least 2")
    matrices = torch.from_numpy(random_rotations(rotations, seed)).to(graph.positions)
    size = max(1, MOST_ATOMS // max(graph.num_atoms, 1))
    parts = [_turned_back(model, graph, some) for some in torch.split(matrices, size)]
    found = {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in parts[0]}
    batch, volume = graph.batch.cpu().numpy(), graph.volume.cpu().numpy()
    precision = str(model.dtype).removeprefix("torch.")
    return [_report(rotations, precision, found["energy"][:, b], found["forces"][:, batch == b],
                    None if np.isnan(volume[b]) else found["stress"][:, b],
                    found["torque"][:, b] if "torque" in found else None)
            for b in range(graph.num_structures)]


def summary(reports: Sequence[SymmetryReport]) -> dict[str, float]:
    """Return root mean squares over structures, by names with units, for the card of a model."""
    return {"energy_rot_std_mev_per_atom": _rms(np.array([r.energy_rot_std_per_atom for r in reports])),
            "forces_rot_std_mev_per_angstrom": 1000 * _rms(np.array([r.forces_rot_std for r in reports]))}


def _turned_back(model: EnergyModel, graph: AtomGraph, matrices: Tensor) -> dict[str, Tensor]:
    """Return energy [G, B], forces [G, N, 3], stress [G, B, 3, 3] and, where there is one, torque [G, B, 3]."""
    copies, structures = len(matrices), graph.num_structures
    p = evaluate(model, turned(graph, matrices), stress=True, torque=True)
    assert p.forces is not None
    assert p.stress is not None
    interaction = p.interaction.to(torch.float64)  # the isolated atoms would only cost digits
    energy = interaction.new_zeros(copies, structures).index_add(
        1, graph.batch, interaction.view(copies, graph.num_atoms))
    forces = p.forces.view(copies, graph.num_atoms, 3) @ matrices.mT
    stress = matrices[:, None] @ p.stress.view(copies, structures, 3, 3) @ matrices.mT[:, None]
    found = {"energy": energy, "forces": forces, "stress": stress}
    return found if p.torque is None else {**found, "torque": p.torque.view(copies, structures, 3)}


def _report(rotations: int, precision: str, energy: Array, forces: Array, stress: Array | None,
            torque: Array | None) -> SymmetryReport:
    spread, mean = _rms(forces - forces.mean(axis=0)), _rms(forces.mean(axis=0))
    return SymmetryReport(
        forces.shape[1], rotations, precision, float(energy.std()), spread,
        spread / mean if mean else np.inf if spread else 0.0,
        None if stress is None else _rms(stress - stress.mean(axis=0)),
        None if torque is None else float(np.abs(torque).max()))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0

"""Errors of a potential on labelled structures."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from mlip.nn.derivatives import evaluate
from mlip.training.data import Dataset


@dataclass(frozen=True)
class Errors:
    """Root mean square and mean absolute errors; energies meV/atom, force components meV/A."""

    energy_rmse: float
    energy_mae: float
    forces_rmse: float
    forces_mae: float

    def to_dict(self) -> dict[str, float]:
        """Return the errors by name, with units in the names."""
        units = {"energy": "mev_per_atom", "forces": "mev_per_angstrom"}
        return {f"{k}_{units[k.split('_')[0]]}": round(v, 4) for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return (f"energy {self.energy_rmse:.2f} meV/atom, forces {self.forces_rmse:.1f} meV/A (RMSE)")


def errors(data: Dataset, batch_size: int = 32) -> Errors:
    """Return the errors of the data set's own potential."""
    energy, forces = [], []
    for batch in data.batches(batch_size):
        result = evaluate(data.potential.model, batch.graph)
        if result.forces is None:
            raise AssertionError("forces were asked for")
        energy.append((result.energy - batch.energy) / batch.sizes)
        forces.append((result.forces - batch.forces).flatten().double())
    e, f = 1e3 * torch.cat(energy), 1e3 * torch.cat(forces)
    return Errors(*(float(v) for v in (e.square().mean().sqrt(), e.abs().mean(), f.square().mean().sqrt(),
                                       f.abs().mean())))

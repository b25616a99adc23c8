"""Energy, forces and stress of a structure as it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mlip.checkpoints import Potential, Prediction
from mlip.screening.batch import BatchedModel, System

UNITS = {"energy": "eV", "energy_per_atom": "eV/atom", "max_force": "eV/A", "stress": "eV/A^3"}
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """There are none."""


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Evaluate one structure.

    Returns:
        Energy, the largest force, and the stress [3, 3] (positive under tension) where there is a volume.

    Raises:
        StructureError, CloseContactError, NonFiniteError, UnknownElementError: from the model.
    """
    (found,) = BatchedModel(potential, most=0)([System.of(atoms, potential)])
    if isinstance(found, Exception):
        raise found
    return results(found)


def results(p: Prediction) -> dict[str, Any]:
    """Return what is stored of a prediction."""
    assert p.forces is not None
    out: dict[str, Any] = {"energy": p.energy, "energy_per_atom": p.energy / len(p.energies),
                           "max_force": float(np.linalg.norm(p.forces, axis=1).max())}
    return out if p.stress is None else {**out, "stress": p.stress.tolist()}

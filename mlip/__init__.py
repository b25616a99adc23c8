"""Machine-learned interatomic potentials for ASE and OpenMM.

Atoms / OpenMM positions / batch -> neighbors -> AtomGraph -> model (energy) -> derivatives (forces, stress)
-> Prediction -> calculators | potentials | screening
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip._installation import check_single_distribution
from mlip._lazy import lazy

check_single_distribution()

if TYPE_CHECKING:
    from mlip.checkpoints import Committee, Potential, Prediction, create, load
    from mlip.graph import AtomGraph, Structure
    from mlip.ops import backends

__version__ = "0.1.0"

_HOMES = {
    "load": "mlip.checkpoints", "create": "mlip.checkpoints",
    "Potential": "mlip.checkpoints", "Prediction": "mlip.checkpoints", "Committee": "mlip.checkpoints",
    "AtomGraph": "mlip.graph", "Structure": "mlip.graph",
    "backends": "mlip.ops",
}

__all__ = ["AtomGraph", "Committee", "Potential", "Prediction", "Structure", "backends", "create", "load"]

__getattr__, __dir__ = lazy(__name__, _HOMES)

"""Machine-learned interatomic potentials for ASE and OpenMM.

Atoms / OpenMM positions / batch -> neighbors -> AtomGraph -> model (energy) -> derivatives (forces, stress)
-> Prediction -> calculators | potentials | screening
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlip._installation import check_single_distribution

check_single_distribution()

if TYPE_CHECKING:
    from mlip.checkpoints import Potential, Prediction, create, load
    from mlip.graph import AtomGraph, Structure

__version__ = "0.1.0"

_HOMES = {
    "load": "mlip.checkpoints", "create": "mlip.checkpoints",
    "Potential": "mlip.checkpoints", "Prediction": "mlip.checkpoints",
    "AtomGraph": "mlip.graph", "Structure": "mlip.graph",
}

__all__ = ["AtomGraph", "Potential", "Prediction", "Structure", "create", "load"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import mlip` stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mlip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

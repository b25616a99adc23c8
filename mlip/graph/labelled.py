"""`Labelled`: a structure with the energy, forces and stress of a reference calculation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlip.graph.structure import Structure


@dataclass(frozen=True)
class Labelled:
    """One training example.

    Attributes:
        structure: the atoms.
        energy: total energy, eV.
        forces: [N, 3] eV/A; None only in data that was asked for with energies alone.
        stress: [3, 3] eV/A^3, positive under tension; None where it is not known.
        config_type: name of the group of structures it belongs to, for tables of errors.
    """

    structure: Structure
    energy: float
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None = None
    config_type: str = ""

    def __len__(self) -> int:
        return len(self.structure)

"""`Labelled`: a structure with the energy and forces of a reference calculation."""

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
        forces: [N, 3] eV/A.
    """

    structure: Structure
    energy: float
    forces: NDArray[np.float64]

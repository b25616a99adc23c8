"""Equation of state: equilibrium volume, bulk modulus and its derivative, atoms and cell shape relaxed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.screening.eos import fit, scaled
from mlip.screening.properties.common import check_numbers, require_crystal, settled

UNITS = {"volumes": "A^3/atom", "energies": "eV/atom", "equilibrium_volume": "A^3/atom",
         "equilibrium_energy": "eV/atom", "bulk_modulus": "GPa", "bulk_modulus_derivative": "", "residual": "eV/atom"}


@dataclass(frozen=True)
class Settings:
    """How the curve is made.

    Attributes:
        strain: largest relative change of the volume, below 0.5; 94 to 106 % by default, as in Bosoni et al., Nat. Rev.
            Phys. 6, 45 (2024).
        points: number of volumes, from 5.
        fmax: eV/A, of the relaxation at each volume.
        steps: largest number of optimiser steps at each volume.
    """

    strain: float = 0.06
    points: int = 7
    fmax: float = 1e-3
    steps: int = 500

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.strain >= 0.5 or self.points < 5:
            raise OptionError("an equation of state needs a strain below 0.5 and at least 5 points; "
                              f"{self.strain!r} and {self.points!r} were given")


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Relax the crystal at several volumes and fit the third-order Birch-Murnaghan equation.

    At each volume atoms and the shape of the cell relax: the curve of clamped atoms would be that of another, stiffer
    crystal wherever symmetry does not hold them.

    Args:
        atoms: a relaxed crystal.
        potential: the model.
        settings: how.

    Returns:
        The values of `UNITS`.

    Raises:
        StructureError: no crystal, or the volumes do not bracket a minimum.
        PropertyError: a relaxation did not converge.
    """
    require_crystal(atoms, "an equation of state")
    count = len(atoms)
    volumes = atoms.get_volume() * np.linspace(1 - settings.strain, 1 + settings.strain, settings.points)
    energies = [settled(scaled(atoms, v), potential, settings.fmax, settings.steps, f"the cell of {v:.3f} A^3",
                        cell=True, constant_volume=True).energy for v in volumes]
    curve = fit(volumes, energies)
    return {"volumes": (curve.volumes / count).tolist(), "energies": (curve.energies / count).tolist(),
            "equilibrium_volume": curve.v0 / count, "equilibrium_energy": curve.e0 / count,
            "bulk_modulus": curve.bulk_modulus, "bulk_modulus_derivative": curve.bulk_modulus_derivative,
            "residual": curve.residual / count}

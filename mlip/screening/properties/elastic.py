"""Elastic tensor from stresses of strained cells, the moduli that follow, and mechanical stability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.screening.properties.common import check_numbers, require_crystal, settled
from mlip.units import GPA_PER_EV_A3, from_voigt

Array = NDArray[np.float64]

UNITS = {"elastic_tensor": "GPa", "bulk_modulus_voigt": "GPa", "bulk_modulus_reuss": "GPa", "bulk_modulus": "GPa",
         "shear_modulus_voigt": "GPa", "shear_modulus_reuss": "GPa", "shear_modulus": "GPa", "young_modulus": "GPa",
         "poisson_ratio": "", "universal_anisotropy": "", "stable": "", "smallest_eigenvalue": "GPa",
         "initial_stress": "GPa", "residual": "GPa"}
MODULI = ("bulk_modulus_reuss", "bulk_modulus", "shear_modulus_reuss", "shear_modulus", "young_modulus",
          "poisson_ratio", "universal_anisotropy")  # without a meaning where the crystal is unstable
SHEAR = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # Voigt strain over tensor strain


@dataclass(frozen=True)
class Settings:
    """Which strains are made.

    Attributes:
        strains: values that each of the six Voigt components takes (engineering shear), of both signs.
        fmax: eV/A; the atoms of every strained cell relax to this.
        steps: largest number of optimiser steps in each cell.
    """

    strains: tuple[float, ...] = (-0.01, -0.005, 0.005, 0.01)
    fmax: float = 1e-4
    steps: int = 500

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.strains or not -0.2 < min(self.strains) < 0 < max(self.strains) < 0.2:
            raise OptionError(f"strains must be of both signs and smaller than 0.2; {self.strains!r} were given")


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Fit C_ij = d stress_i / d strain_j by least squares, symmetrise it, and derive the moduli.

    Moduli are the averages of Voigt, Reuss and Hill (Proc. Phys. Soc. A 65, 349 (1952)), the anisotropy that of
    Ranganathan and Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008). The crystal is stable where all eigenvalues
    of the tensor are positive (Mouhat and Coudert, Phys. Rev. B 90, 224104 (2014)); elsewhere moduli that need its
    inverse are None. The tensor is that of the axes the cell is given in.

    Args:
        atoms: a crystal, relaxed with its cell; `initial_stress` is the largest component that is left.
        potential: the model.
        settings: how.

    Returns:
        The values of `UNITS`. `residual` is the root mean square distance of the stresses from the straight lines.

    Raises:
        StructureError: no crystal.
        PropertyError: a relaxation did not converge.
    """
    require_crystal(atoms, "an elastic tensor")
    tensor, offset, squares = np.zeros((6, 6)), np.zeros((6, 6)), []
    for j in range(6):
        stresses = []
        for strain in settings.strains:
            done = settled(strained(atoms, j, strain), potential, settings.fmax, settings.steps,
                           f"the cell with {strain:g} in strain component {j + 1}")
            stresses.append(done.atoms.get_stress() * GPA_PER_EV_A3)
        tensor[:, j], offset[:, j] = np.polyfit(settings.strains, stresses, 1)
        squares.append((np.outer(settings.strains, tensor[:, j]) + offset[:, j] - stresses) ** 2)
    found = {"elastic_tensor": (0.5 * (tensor + tensor.T)).tolist(), **moduli(0.5 * (tensor + tensor.T))}
    return found | {"initial_stress": float(np.abs(offset.mean(axis=1)).max()),
                    "residual": math.sqrt(float(np.mean(squares)))}


def strained(atoms: Atoms, component: int, strain: float) -> Atoms:
    """Return a copy whose cell and atoms are strained in one Voigt component (0 to 5, engineering shear)."""
    voigt = np.zeros(6)
    voigt[component] = strain
    copy = atoms.copy()
    copy.set_constraint()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + from_voigt(voigt / SHEAR)), scale_atoms=True)
    return copy


def moduli(tensor: Array) -> dict[str, Any]:
    """Return moduli, anisotropy and stability of a symmetric elastic tensor.

    Args:
        tensor: [6, 6] GPa, Voigt.
    """
    mandel = np.sqrt(np.outer(SHEAR, SHEAR))  # in this notation the eigenvalues do not depend on the axes
    smallest = float(np.linalg.eigvalsh(tensor * mandel)[0])
    k_voigt, g_voigt = _voigt(tensor)
    found: dict[str, Any] = {"bulk_modulus_voigt": k_voigt, "shear_modulus_voigt": g_voigt, "stable": smallest > 0,
                             "smallest_eigenvalue": smallest, **dict.fromkeys(MODULI)}
    if smallest <= 0:
        return found
    s = np.linalg.inv(tensor)
    k_reuss = float(1 / s[:3, :3].sum())
    g_reuss = float(15 / (4 * np.trace(s[:3, :3]) - 4 * (s[0, 1] + s[0, 2] + s[1, 2]) + 3 * np.trace(s[3:, 3:])))
    k, g = (k_voigt + k_reuss) / 2, (g_voigt + g_reuss) / 2
    return found | {"bulk_modulus_reuss": k_reuss, "bulk_modulus": k,
                    "shear_modulus_reuss": g_reuss, "shear_modulus": g, "young_modulus": 9 * k * g / (3 * k + g),
                    "poisson_ratio": (3 * k - 2 * g) / (6 * k + 2 * g),
                    "universal_anisotropy": 5 * g_voigt / g_reuss + k_voigt / k_reuss - 6}


def _voigt(c: Array) -> tuple[float, float]:
    diagonal, off, shear = np.trace(c[:3, :3]), c[0, 1] + c[0, 2] + c[1, 2], np.trace(c[3:, 3:])
    return float((diagonal + 2 * off) / 9), float((diagonal - off + 3 * shear) / 15)

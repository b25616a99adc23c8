"""Unit factors from the exact constants of the 2019 SI, Voigt order and the sign of stress.

Inside mlip: energy eV, length Angstrom, force eV/A, stress eV/A^3 (positive under tension, the sign
of ASE). OpenMM: kJ/mol, nm. This is the only file that holds conversion constants. Hartree and Bohr are measured, not
exact: CODATA 2022.

ASE ships the CODATA 2014 constants, whose eV -> kJ/mol differs from the exact one by 8e-9 relative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ELEMENTARY_CHARGE = 1.602176634e-19  # C, exact
AVOGADRO = 6.02214076e23  # 1/mol, exact
BOLTZMANN = 1.380649e-23  # J/K, exact

KJ_PER_MOL_PER_EV = ELEMENTARY_CHARGE * AVOGADRO / 1000.0
NM_PER_ANGSTROM = 0.1
KJ_PER_MOL_NM_PER_EV_A = KJ_PER_MOL_PER_EV / NM_PER_ANGSTROM
GPA_PER_EV_A3 = ELEMENTARY_CHARGE * 1e30 / 1e9
EV_A3_PER_BAR = 1e-4 / GPA_PER_EV_A3
KB_EV = BOLTZMANN / ELEMENTARY_CHARGE  # eV/K
DALTON_PER_A3_IN_G_CM3 = 1e24 / AVOGADRO

HARTREE = 27.211386245981  # eV
BOHR = 0.529177210544  # A

ENERGY_UNITS = {"eV": 1.0, "meV": 1e-3, "Hartree": HARTREE, "Ry": HARTREE / 2, "kcal/mol": 4.184 / KJ_PER_MOL_PER_EV,
                "kJ/mol": 1.0 / KJ_PER_MOL_PER_EV}  # in eV
LENGTH_UNITS = {"Angstrom": 1.0, "Bohr": BOHR, "nm": 1.0 / NM_PER_ANGSTROM}  # in A
STRESS_UNITS = {"eV/Angstrom^3": 1.0, "GPa": 1.0 / GPA_PER_EV_A3, "kbar": 0.1 / GPA_PER_EV_A3}  # in eV/A^3

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # xx, yy, zz, yz, xz, xy


def to_voigt(stress: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the six Voigt components xx, yy, zz, yz, xz, xy of a symmetric tensor.

    Args:
        stress: [3, 3] or [..., 3, 3], any unit; the mean of each off-diagonal pair is taken.

    Returns:
        [..., 6] in the same unit.
    """
    s = np.asarray(stress, dtype=np.float64)
    return np.stack([0.5 * (s[..., i, j] + s[..., j, i]) for i, j in VOIGT], axis=-1)


def from_voigt(components: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the symmetric tensors [..., 3, 3] of Voigt components [..., 6], in the same unit."""
    c = np.asarray(components, dtype=np.float64)
    stress = np.empty((*c.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(VOIGT):
        stress[..., i, j] = stress[..., j, i] = c[..., k]
    return stress

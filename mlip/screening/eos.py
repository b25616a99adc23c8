"""Energy against volume: equilibrium volume and bulk modulus of a crystal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from mlip.checkpoints import Potential
from mlip.errors import OptionError, StructureError
from mlip.units import GPA_PER_EV_A3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EquationOfState:
    """Energies of a crystal at several volumes, and the curve through them.

    Attributes:
        volumes: [P] A^3, of the cell, ascending.
        energies: [P] eV, of the cell.
        v0: A^3, volume of the lowest energy.
        e0: eV, energy there.
        bulk_modulus: GPa, V d2E/dV2 there.
        residual: eV, root mean square distance of the energies from the curve.
        bulk_modulus_derivative: its derivative by the pressure there.
    """

    volumes: Array
    energies: Array
    v0: float
    e0: float
    bulk_modulus: float
    residual: float
    bulk_modulus_derivative: float


def equation_of_state(atoms: Atoms, potential: Potential, strain: float = 0.06, points: int = 7) -> EquationOfState:
    """Scale a crystal to several volumes, all directions alike, and fit the energies.

    Fractional coordinates and the shape of the cell stay as they are. With the defaults the volumes are 94 to
    106 % of the given one, as in Bosoni et al., Nat. Rev. Phys. 6, 45 (2024).

    Args:
        atoms: a crystal near its equilibrium, e.g. relaxed with its cell; it is not changed.
        potential: the model.
        strain: largest relative change of the volume, above 0 and below 0.5.
        points: number of volumes, from 5.

    Raises:
        OptionError: options outside their allowed values.
        StructureError: not periodic in all directions, or the volumes do not bracket a minimum.
        UnknownElementError, NonFiniteError: from the model.
    """
    if not 0 < strain < 0.5 or type(points) is not int or points < 5:
        raise OptionError("an equation of state needs a strain above 0 and below 0.5 and a whole number of points "
                          f"from 5; {strain!r} and {points!r} were given")
    if not atoms.pbc.all():
        raise StructureError("an equation of state needs a crystal with three periodic directions; pbc is "
                             f"{atoms.pbc.tolist()}")
    volumes = atoms.get_volume() * np.linspace(1 - strain, 1 + strain, points)
    cells = [scaled(atoms, volume) for volume in volumes]
    energies = np.array([p.energy for p in potential.predict(cells, forces=False, stress=False)])
    return fit(volumes, energies)


def fit(volumes: ArrayLike, energies: ArrayLike) -> EquationOfState:
    """Fit the third-order Birch-Murnaghan equation (Birch, Phys. Rev. 71, 809 (1947)).

    The equation is a cubic polynomial of V^(-2/3), so that the fit is linear and needs no guess.

    Args:
        volumes: [P] A^3, at least 5.
        energies: [P] eV.

    Raises:
        StructureError: the lowest energy lies at one of the ends, or the curve has no minimum between them.
    """
    v, e = np.asarray(volumes, dtype=np.float64), np.asarray(energies, dtype=np.float64)
    order = np.argsort(v)
    v, e = v[order], e[order]
    if not 0 < int(np.argmin(e)) < len(e) - 1:
        raise StructureError(f"the energy has no minimum between {v[0]:.3f} and {v[-1]:.3f} A^3: it is lowest at "
                             f"{v[np.argmin(e)]:.3f} A^3; relax the cell first, or use a larger strain")
    middle, width = float(v.mean()), (v[-1] - v[0]) / (v[-1] + v[0])
    x = ((middle / v) ** (2 / 3) - 1) / width  # about -1 to 1
    curve = np.polynomial.Polynomial.fit(x, e - e.min(), 3, domain=[-1, 1])
    s0, s1, s2 = np.asarray(curve.deriv(1).coef, dtype=np.float64).tolist()
    bend2 = s1**2 - 4 * s0 * s2  # squared second derivative at the minimum
    root = -2 * s0 / (s1 + bend2**0.5) if bend2 > 0 and s1 + bend2**0.5 > 0 else np.inf
    if not x.min() < root < x.max():
        raise StructureError(f"the fitted curve has no minimum between {v[0]:.3f} and {v[-1]:.3f} A^3; the energies "
                             "are too rough for it: use a larger strain, or a model in float64")
    t = 1 + width * root  # (middle / V0)^(2/3)
    v0 = middle * t**-1.5
    modulus = 4 / 9 * (bend2**0.5 / width**2) * t**2 / v0  # V E'' by the chain rule; the first derivative is zero
    derivative = 4 + 4 / 3 * t * s2 / (width * bend2**0.5)  # -1 - V d3E/dV3 / d2E/dV2
    residual = float(np.sqrt(np.mean((curve(x) - (e - e.min())) ** 2)))
    return EquationOfState(v, e, float(v0), float(curve(root) + e.min()), float(modulus * GPA_PER_EV_A3), residual,
                           float(derivative))


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """Return a copy with the volume in A^3, all directions scaled alike; without constraints, which could hold it."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.set_cell(atoms.cell.array * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return copy

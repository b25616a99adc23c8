"""Energies of low-index surfaces."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import surface as cut_along
from numpy.typing import NDArray

from mlip.checkpoints import Potential
from mlip.errors import PropertyError
from mlip.screening.properties.common import check_numbers, require_crystal, settled, symmetry
from mlip.units import ELEMENTARY_CHARGE

UNITS = {"surfaces": "Miller indices", "surface_energies": "J/m^2", "unrelaxed_energies": "J/m^2", "atoms": "",
         "lowest": "J/m^2", "lowest_surface": "Miller indices"}
J_M2_PER_EV_A2 = ELEMENTARY_CHARGE * 1e20
VACUUM = 10.0  # A, on either side; slabs are open there, so that no energy depends on it
SAME = 1e-3  # A; atoms at one height

Indices = tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """How slabs are made.

    Attributes:
        max_index: largest Miller index, in the conventional cell.
        thickness: A, least thickness of a slab.
        symprec: A, within which the crystal is symmetric.
        fmax: eV/A; the atoms of a slab relax to this in a fixed cell.
        steps: largest number of optimiser steps.
    """

    max_index: int = 1
    thickness: float = 10.0
    symprec: float = 1e-3
    fmax: float = 0.01
    steps: int = 500

    def __post_init__(self) -> None:
        check_numbers(self)


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Cut the crystal along its inequivalent low-index planes: (E(slab) - E(as many atoms of crystal)) / 2 area.

    Slabs are stoichiometric and cut where planes of atoms are farthest apart; where their two sides differ, the energy
    is the mean of both. Atoms relax without changing the symmetry of the slab: reconstructions are not found.

    Args:
        atoms: a relaxed crystal.
        potential: the model.
        settings: how.

    Returns:
        The values of `UNITS`; lists over the surfaces.

    Raises:
        StructureError: no crystal.
        PropertyError: a relaxation did not converge.
        MissingDependencyError: spglib is not installed.
    """
    require_crystal(atoms, "a surface")
    primitive, vectors, rotations = standard_cell(atoms, settings.symprec)
    bulk = potential.predict(primitive, forces=False, stress=False).energy / len(primitive)
    names, slabs, relaxed, unrelaxed = [], [], [], []
    for indices in inequivalent(settings.max_index, rotations):
        name = "".join(map(str, indices))
        made = slab(primitive, _in_primitive(indices, vectors), settings.thickness)
        area = float(np.linalg.norm(np.cross(*made.cell.array[:2])))
        before = potential.predict(made, forces=False, stress=False).energy
        after = settled(made, potential, settings.fmax, settings.steps, f"the surface ({name})",
                        optimizer="fire").energy
        names.append(name)
        slabs.append(len(made))
        unrelaxed.append((before - len(made) * bulk) / (2 * area) * J_M2_PER_EV_A2)
        relaxed.append((after - len(made) * bulk) / (2 * area) * J_M2_PER_EV_A2)
    return {"surfaces": names, "surface_energies": relaxed, "unrelaxed_energies": unrelaxed, "atoms": slabs,
            "lowest": min(relaxed), "lowest_surface": names[int(np.argmin(relaxed))]}


def standard_cell(atoms: Atoms, symprec: float) -> tuple[Atoms, NDArray[np.float64], NDArray[np.int32]]:
    """Return the standard primitive cell of a crystal, and what relates it to the conventional one.

    Returns:
        The primitive cell, made exactly symmetric; [3, 3], its vectors in terms of the conventional ones; [R, 3, 3],
        the rotations of the crystal in the conventional cell.
    """
    found = symmetry(atoms, symprec)
    conventional = Atoms(found.std_types, scaled_positions=found.std_positions, cell=found.std_lattice, pbc=True)
    lattice, scaled, numbers = symmetry(conventional, symprec, "find_primitive")
    primitive = Atoms(numbers, scaled_positions=scaled, cell=lattice, pbc=True, info=dict(atoms.info))
    return primitive, lattice @ np.linalg.inv(found.std_lattice), symmetry(conventional, symprec).rotations


def inequivalent(largest: int, rotations: NDArray[np.int32]) -> list[Indices]:
    """Return one of each set of planes that rotations, or turning the crystal over, make the same.

    Args:
        largest: of the absolute Miller indices.
        rotations: [R, 3, 3], of scaled positions.
    """
    found: set[Indices] = set()
    for indices in itertools.product(range(-largest, largest + 1), repeat=3):
        if math.gcd(*indices) == 1:
            images = (np.array(indices) @ rotations).tolist()
            found.add(min(((sign * h, sign * k, sign * l) for h, k, l in images for sign in (1, -1)), key=_plainness))
    return sorted(found, key=lambda i: (sum(map(abs, i)), i))


def _plainness(indices: Indices) -> tuple[int, ...]:
    return (*sorted(map(abs, indices), reverse=True), *(-i for i in indices))


def slab(primitive: Atoms, indices: Indices, thickness: float) -> Atoms:
    """Cut a slab of whole cells along a plane, where planes of atoms are farthest apart.

    Args:
        primitive: a crystal.
        indices: Miller indices in this cell.
        thickness: A, at least.
    """
    height = float(cut_along(primitive, indices, 1, periodic=True).cell.array[2, 2])
    layers = math.ceil(thickness / height - 1e-6)
    stack = cut_along(primitive, indices, layers + 1, periodic=True)
    planes = np.sort(stack.positions[:, 2] % height)
    gaps = np.diff(np.append(planes, planes[0] + height))
    widest = int(np.flatnonzero(gaps > gaps.max() - SAME)[0])
    bottom = (planes[widest] + gaps[widest] / 2) % height
    z = stack.positions[:, 2]
    made = stack[(z > bottom) & (z < bottom + layers * height)]
    if len(made) != layers * len(primitive):
        raise PropertyError(f"the slab {indices} has {len(made)} atoms, not {layers} times {len(primitive)}: it cannot "
                            "be cut between planes of atoms")
    made.pbc = (True, True, False)
    made.center(vacuum=VACUUM, axis=2)
    return made


def _in_primitive(indices: Indices, vectors: NDArray[np.float64]) -> Indices:
    """Return Miller indices in the primitive cell; `vectors` as of `standard_cell`, multiples of 1/6."""
    h, k, l = (round(6 * i) for i in (vectors @ indices).tolist())
    factor = math.gcd(h, k, l)
    return h // factor, k // factor, l // factor

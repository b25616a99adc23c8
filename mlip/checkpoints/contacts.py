"""Atoms closer than real ones come: a structure that no model should be asked about."""

from __future__ import annotations

import numpy as np

from mlip.elements import SYMBOLS
from mlip.errors import CloseContactError
from mlip.graph import Structure
from mlip.models.mace.radii import COVALENT_RADII
from mlip.neighbors import NeighborList, closest_contact

SIZES = 0.5 * np.array(COVALENT_RADII)  # A
SIZES[1] = 0.18  # half of the bond of H2, which is longer than its covalent radii say


def check_contacts(structure: Structure, edges: NeighborList) -> None:
    """Refuse a structure in which two atoms are closer than half the sum of their covalent radii.

    That is 0.36 A for two hydrogens, 0.51 for O-H, 0.56 for C-H, 0.76 for C-C and 1.32 for Cu-Cu. It takes several eV
    to push two atoms together so far, more than thermal motion has; models never saw it and often find a hole there
    that everything falls into.

    Args:
        structure: the structure.
        edges: its neighbour list.

    Raises:
        CloseContactError: names the worst pair.
    """
    size = SIZES[structure.numbers]
    found = closest_contact(structure.positions, structure.cell, edges, size)
    if found is not None:
        i, j, distance = found
        first, second = (f"{k} ({SYMBOLS[structure.numbers[k]]})" for k in sorted((i, j)))
        raise CloseContactError(
            f"atoms {first} and {second} are {distance:.4f} A apart, less than {size[i] + size[j]:.2f} A, closer than "
            "real atoms come; move them apart, or use a smaller time step and look at the last frames", sorted((i, j)))

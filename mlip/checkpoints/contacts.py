"""Atoms closer than real ones come: a structure that no model should be asked about."""

from __future__ import annotations

import numpy as np

from mlip.elements import SYMBOLS
from mlip.errors import CloseContactError
from mlip.graph import Structure
from mlip.models.mace.radii import COVALENT_RADII
from mlip.neighbors import NeighborList, closest_contact

CLOSEST = 0.56  # of the sum of the covalent radii: 0.35 A for two hydrogens, 0.60 for C-H, 0.85 for C-C, 1.48 for Cu-Cu
SIZES = CLOSEST * np.array(COVALENT_RADII)  # A


def check_contacts(structure: Structure, edges: NeighborList) -> None:
    """Refuse a structure in which two atoms are closer than 0.56 of the sum of their covalent radii.

    It takes several eV to push two atoms together so far, more than thermal motion has; models never saw it and
    often find a hole there that everything falls into.

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

"""ASE atoms -> `Structure`."""

from __future__ import annotations

from ase import Atoms

from mlip.errors import StructureError
from mlip.graph import Structure

INFO_KEYS = ("charge", "spin", "spin_multiplicity", "head")


def structure_of(atoms: Atoms) -> Structure:
    """Return the `Structure` of ASE atoms; reads `info` keys charge, spin_multiplicity or spin, head.

    Raises:
        StructureError: not ASE atoms, or values that describe no structure.
    """
    if not isinstance(atoms, Atoms):
        raise StructureError(f"expected ase.Atoms, got {type(atoms).__name__}")
    info = atoms.info
    spin = info.get("spin_multiplicity", info.get("spin", 1))
    return Structure.create(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc,
                            charge=info.get("charge", 0), spin=spin, head=info.get("head"))

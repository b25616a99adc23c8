"""ASE atoms -> `Structure`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase import Atoms

from mlip.errors import StructureError
from mlip.graph import Structure

INFO_KEYS = ("charge", "spin", "spin_multiplicity", "head")


def structure_of(atoms: Atoms) -> Structure:
    """Return the `Structure` of ASE atoms; reads `info` keys charge, spin_multiplicity or spin, head.

    Charge and spin stay None where there is no such key.

    Raises:
        StructureError: not ASE atoms, or values that describe no structure.
    """
    if not isinstance(atoms, Atoms):
        raise StructureError(f"expected ase.Atoms, got {type(atoms).__name__}")
    state = state_of(atoms.info)
    return Structure.create(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **state)


def state_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return charge, spin and head as `Structure.create` takes them; the keys of `info` as in `structure_of`.

    Raises:
        StructureError: values that contradict each other, or no charge where there is a key for it.
    """
    given = [info[key] for key in ("spin_multiplicity", "spin") if info.get(key)]  # 0 stands for not given
    if len({str(spin) for spin in given}) > 1:
        raise StructureError(f"info['spin_multiplicity'] and info['spin'] contradict each other: {given}")
    charge = info.get("charge")
    if "charge" in info and charge is None:
        raise StructureError("info['charge'] must be a whole number; None was given: leave the key out where the "
                             "charge is not known")
    return {"charge": charge, "spin": given[0] if given else None, "head": info.get("head")}


def require_atoms(atoms: Atoms) -> Structure:
    """Return `structure_of(atoms)` for work that makes no sense without atoms.

    Raises:
        StructureError: as `structure_of`, or there are no atoms.
    """
    structure = structure_of(atoms)
    if not len(structure):
        raise StructureError("there are no atoms; give a structure with at least one")
    return structure

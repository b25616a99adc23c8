"""Files of labelled structures -> arrays."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import iread

from mlip.elements import SYMBOLS
from mlip.errors import StructureError
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of

ENERGY_KEYS = ("REF_energy", "energy")
FORCES_KEYS = ("REF_forces", "forces")


def read_labelled(path: str | Path) -> list[Labelled]:
    """Read structures with energies and forces from a file ASE can read, also gzip-compressed.

    Args:
        path: extended XYZ or another format of ASE. Energy in eV under `REF_energy` or `energy`; forces in
            eV/A under `REF_forces` or `forces`, absent for isolated atoms.

    Raises:
        StructureError: no such file, no structures, or a structure without energy or forces.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise StructureError(f"there is no file {source}")
    found = [_labelled(atoms, f"structure {i} of {source.name}") for i, atoms in enumerate(_frames(source))]
    if not found:
        raise StructureError(f"{source} holds no structures")
    return found


def isolated_energies(path: str | Path) -> dict[str, float]:
    """Read the energy of each isolated atom, eV, from a file of one-atom structures."""
    energies = {}
    for entry in read_labelled(path):
        if len(entry.structure) != 1:
            raise StructureError(f"{path} must hold isolated atoms; it has {len(entry.structure)} atoms in one place")
        energies[SYMBOLS[entry.structure.numbers[0]]] = entry.energy
    return energies


def _frames(path: Path) -> Iterator[Atoms]:
    if path.suffix == ".gz":
        inner = Path(path.stem).suffix.lstrip(".")
        with gzip.open(path, "rt") as file:
            yield from iread(file, ":", format="extxyz" if inner in ("xyz", "extxyz") else inner)
    else:
        yield from iread(path, ":", format="extxyz" if path.suffix in (".xyz", ".extxyz") else None)


def _labelled(atoms: Atoms, where: str) -> Labelled:
    results = atoms.calc.results if atoms.calc is not None else {}
    energy = next((v for v in (*(atoms.info.get(k) for k in ENERGY_KEYS), results.get("energy")) if v is not None), None)
    forces = next((v for v in (*(atoms.arrays.get(k) for k in FORCES_KEYS), results.get("forces")) if v is not None),
                  None)
    if forces is None and len(atoms) == 1:
        forces = np.zeros((1, 3))
    if energy is None or forces is None:
        missing = f"energy ({' or '.join(ENERGY_KEYS)})" if energy is None else f"forces ({' or '.join(FORCES_KEYS)})"
        raise StructureError(f"{where} has no {missing}")
    forces = np.asarray(forces, dtype=np.float64)
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise StructureError(f"{where}: energy or forces are NaN or infinite")
    return Labelled(structure_of(atoms), float(energy), forces)

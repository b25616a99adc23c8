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

LABELS = (("REF_energy", "REF_forces"), ("energy", "forces"))


def read_labelled(path: str | Path) -> list[Labelled]:
    """Read structures with energies and forces from a file ASE can read, also gzip-compressed.

    Args:
        path: extended XYZ or another format of ASE. Energy in eV and forces in eV/A under `REF_energy` and
            `REF_forces`, or else under `energy` and `forces`; forces may be absent for isolated atoms.

    Raises:
        StructureError: no such file, one that cannot be read, no structures, or a structure without energy or
            forces.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise StructureError(f"there is no file {source}")
    try:
        frames = list(_frames(source))
    except Exception as error:  # ASE's readers raise whatever the content makes them stumble over
        raise StructureError(f"{source} cannot be read as structures: {type(error).__name__}: {error}") from None
    found = [_labelled(atoms, f"structure {i} of {source.name}") for i, atoms in enumerate(frames)]
    if not found:
        raise StructureError(f"{source} holds no structures")
    return found


def isolated_energies(path: str | Path) -> dict[str, float]:
    """Read the energy of each isolated atom, eV, from a file of one-atom structures."""
    energies = {}
    for entry in read_labelled(path):
        if len(entry.structure) != 1:
            raise StructureError(f"{path} must hold isolated atoms; it has {len(entry.structure)} atoms in one place")
        symbol = SYMBOLS[entry.structure.numbers[0]]
        if symbol in energies:
            raise StructureError(f"{path} holds the isolated atom {symbol} twice")
        energies[symbol] = entry.energy
    return energies


def _frames(path: Path) -> Iterator[Atoms]:
    if path.suffix == ".gz":
        inner = Path(path.stem).suffix.lstrip(".")
        with gzip.open(path, "rt" if inner in ("xyz", "extxyz") else "rb") as file:
            yield from iread(file, ":", format="extxyz" if inner in ("xyz", "extxyz") else inner)
    else:
        yield from iread(path, ":", format="extxyz" if path.suffix in (".xyz", ".extxyz") else None)


def _labelled(atoms: Atoms, where: str) -> Labelled:
    results = atoms.calc.results if atoms.calc is not None else {}
    found = [(atoms.info.get(e, results.get(e)), atoms.arrays.get(f, results.get(f)), f) for e, f in LABELS]
    energy, forces, name = next((labels for labels in found if labels[0] is not None), (None, None, ""))
    if energy is None:
        raise StructureError(f"{where} has no energy ({' or '.join(key for key, _ in LABELS)})")
    if forces is None and len(atoms) != 1:
        raise StructureError(f"{where} has an energy but no forces under {name}")
    try:
        energy, forces = float(energy), np.asarray(np.zeros((1, 3)) if forces is None else forces, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{where}: energy or forces are no numbers: {error}") from None
    if forces.shape != (len(atoms), 3):
        raise StructureError(f"{where}: {name} have shape {forces.shape}; {len(atoms)} atoms need ({len(atoms)}, 3)")
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise StructureError(f"{where}: energy or forces are NaN or infinite")
    return Labelled(structure_of(atoms), energy, forces)

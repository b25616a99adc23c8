"""What is to be screened: files, folders, patterns, ASE atoms and pymatgen structures, each with a name that stays."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.errors import OptionError, StructureError
from mlip.io.ase import INFO_KEYS
from mlip.io.files import read_structures

ENDINGS = (".cif", ".db", ".extxyz", ".gen", ".json", ".pdb", ".poscar", ".res", ".traj", ".vasp", ".xsf", ".xyz")
NAMES = ("POSCAR", "CONTCAR")


@dataclass(frozen=True)
class Entry:
    """One structure to screen.

    Attributes:
        id: what rows and tables call it: `file#index`, or the beginning of its hash where it came from no file.
        hash: sha256 of the structure, see `content_hash`; of the text of the error where there is none.
        atoms: the structure; None where it could not be read.
        reason: why not; "" otherwise.
    """

    id: str
    hash: str
    atoms: Atoms | None
    reason: str = ""


def read_inputs(inputs: Any) -> list[Entry]:
    """Read everything there is to screen.

    Args:
        inputs: one of, or an iterable of any of these: the path of a file (any format of ASE, databases and JSON of
            ASE, JSON of pymatgen), a folder, whose files with `ENDINGS` or names as VASP gives them are read, those of
            its folders included, a pattern such as `"*.cif"`; ASE atoms; pymatgen structures, or anything that has
            `to_ase_atoms`.

    Returns:
        The entries, sorted by id. A file that cannot be read is an entry with a reason.

    Raises:
        OptionError: nothing was given, no file fits, or something that is no structure.
    """
    found = [entry for each in _listed(inputs) for entry in _entries(each)]
    if not found:
        raise OptionError("there is nothing to screen; give files, folders, patterns or structures")
    named: dict[str, Entry] = {}
    for entry in found:  # a file that two patterns name is one; equal structures without a file are numbered
        if entry.id in named and "#" not in entry.id:
            number = 2
            while f"{entry.id}-{number}" in named:
                number += 1
            entry = Entry(f"{entry.id}-{number}", entry.hash, entry.atoms, entry.reason)
        named[entry.id] = entry
    return [named[name] for name in sorted(named)]


def content_hash(atoms: Atoms) -> str:
    """Return the sha256 of all that results depend on: elements, positions, cell, pbc, state, head and constraints."""
    digest = hashlib.sha256()
    for array, kind in ((atoms.numbers, "<i8"), (atoms.positions, "<f8"), (atoms.cell.array, "<f8"),
                        (atoms.pbc, "<i8")):
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    state = {key: str(atoms.info[key]) for key in INFO_KEYS if key in atoms.info}
    fixed = [repr(constraint.todict()) for constraint in atoms.constraints]
    digest.update(json.dumps([len(atoms), state, fixed], sort_keys=True).encode())
    return digest.hexdigest()


def _listed(inputs: Any) -> Iterable[Any]:
    single = isinstance(inputs, str | Path | Atoms) or hasattr(inputs, "to_ase_atoms")
    if not single and not isinstance(inputs, Iterable):
        raise OptionError(f"a {type(inputs).__name__} cannot be screened; give files, folders, ase.Atoms or pymatgen "
                          "structures")
    return [inputs] if single else inputs


def _entries(item: Any) -> Iterator[Entry]:
    if isinstance(item, str | Path):
        for file in _files(item):
            yield from _of_file(file)
        return
    atoms = item.to_ase_atoms() if hasattr(item, "to_ase_atoms") else item
    if not isinstance(atoms, Atoms):
        raise OptionError(f"a {type(item).__name__} is no structure; give ase.Atoms, a pymatgen structure or a path")
    plain = Atoms(atoms)  # pymatgen gives a subclass
    plain.info = dict(atoms.info)
    key = content_hash(plain)
    yield Entry(key[:12], key, plain)


def _files(item: str | Path) -> list[Path]:
    path = Path(item).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and (p.suffix.lower() in ENDINGS or p.name in NAMES)]
        if not found:
            raise OptionError(f"{path} holds no structures; files must end in {', '.join(ENDINGS)}")
        return sorted(found)
    if path.is_file():
        return [path]
    matching = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not matching:
        raise OptionError(f"there is no file, folder or match of a pattern {path}")
    return matching


def _of_file(file: Path) -> Iterator[Entry]:
    try:
        structures = _read(file)
    except StructureError as error:
        yield Entry(f"{file.as_posix()}#0", hashlib.sha256(file.read_bytes()).hexdigest(), None,
                    f"{type(error).__name__}: {error}")
        return
    for index, atoms in enumerate(structures):
        atoms.calc = None
        yield Entry(f"{file.as_posix()}#{index}", content_hash(atoms), atoms)


def _read(file: Path) -> list[Atoms]:
    if file.suffix == ".json":
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, ValueError) as error:
            raise StructureError(f"{file} is no JSON: {error}") from None
        listed = content if isinstance(content, list) else [content]
        if listed and all(isinstance(each, dict) and "lattice" in each and "sites" in each for each in listed):
            return [_of_pymatgen(file, each) for each in listed]
    return read_structures(file)


def _of_pymatgen(file: Path, content: dict[str, Any]) -> Atoms:
    """Return the atoms of the dictionary of a pymatgen `Structure`; sites must hold one species each."""
    try:
        species = [site["species"] for site in content["sites"]]
        if any(len(each) != 1 or each[0].get("occu", 1) != 1 for each in species):
            raise StructureError(f"{file} holds a disordered structure; give an ordered one")
        symbols = [each[0]["element"].rstrip("+-0123456789.") for each in species]
        scaled = np.array([site["abc"] for site in content["sites"]], dtype=np.float64).reshape(-1, 3)
        lattice = content["lattice"]
        return Atoms(symbols, scaled_positions=scaled, cell=lattice["matrix"], pbc=lattice.get("pbc", True))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError(f"{file} cannot be read as a structure of pymatgen: {type(error).__name__}: {error}"
                             ) from None

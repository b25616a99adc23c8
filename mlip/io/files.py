"""Files of structures, and structures with their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from mlip.errors import OptionError, StructureError
from mlip.units import to_voigt

if TYPE_CHECKING:
    from mlip.checkpoints.potential import Prediction


def read_structures(path: str | Path) -> list[Atoms]:
    """Read every structure of a file in any format ASE knows.

    Raises:
        StructureError: no such file, unreadable, or empty.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise StructureError(f"there is no file {source}")
    try:
        found = read(source, ":")
    except Exception as error:  # readers of ASE raise anything
        raise StructureError(f"{source} cannot be read as structures: {type(error).__name__}: {error}") from error
    if not found:
        raise StructureError(f"{source} holds no structures")
    return list(found)


def read_structure(path: str | Path, index: int | None = None) -> Atoms:
    """Read one structure of a file.

    Args:
        path: the file.
        index: which structure, from 0; -1 is the last. None: the file must hold only one.

    Raises:
        StructureError: as `read_structures`, several structures and no index, or none of this index.
    """
    found = read_structures(path)
    count = len(found)
    if index is None and count > 1:
        raise StructureError(f"{path} holds {count} structures; choose one by its index, 0 to {count - 1}, or -1 for "
                             "the last")
    if index is not None and not -count <= index < count:
        raise StructureError(f"{path} has no structure of index {index}; it holds {count}: allowed are {-count} to "
                             f"{count - 1}")
    return found[index or 0]


def check_target(path: str | Path, endings: Sequence[str] = (), inputs: Sequence[Path] = ()) -> Path:
    """Return the path of a file to write; called before the work whose result goes there.

    Args:
        path: the file.
        endings: allowed ends of the name, e.g. `(".xyz",)`; by default those of all formats ASE can write.
        inputs: files that must not be overwritten.

    Raises:
        OptionError: its folder does not exist, it is a folder or an input, or the ending is not allowed.
    """
    target = Path(path).expanduser()
    if not target.parent.is_dir():
        raise OptionError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise OptionError(f"cannot write {target}: it is a folder; give the name of a file")
    sources = [source.expanduser() for source in inputs]
    if target.exists() and any(source.exists() and target.samefile(source) for source in sources):
        raise OptionError(f"cannot write {target}: it is an input of this run; choose another name for the output")
    if endings and target.suffix not in endings:
        raise OptionError(f"cannot write {target}: the name must end in {' or '.join(endings)}")
    try:
        known = bool(endings) or ioformats[filetype(str(target), read=False)].can_write
    except (KeyError, UnknownFileTypeError):
        known = False
    if not known:
        raise OptionError(f"cannot write {target}: ASE writes no format with this ending; use .xyz, .cif or .traj")
    return target


def write_structures(path: str | Path, structures: Sequence[Atoms]) -> Path:
    """Write structures in the format that the ending of the file name says.

    Raises:
        StructureError: the format is unknown or cannot hold the structures.
    """
    target = Path(path).expanduser()
    try:
        write(target, list(structures), format="extxyz" if target.suffix in (".xyz", ".extxyz") else None)
    except Exception as error:  # writers of ASE raise anything
        raise StructureError(f"{target} cannot be written: {type(error).__name__}: {error}; "
                             "use an ending such as .xyz, .cif or .traj") from error
    return target


def with_results(atoms: Atoms, prediction: Prediction) -> Atoms:
    """Return a copy of the atoms that carries energy, energies, forces and stress as ASE results."""
    copied = atoms.copy()
    results = {"energy": prediction.energy, "free_energy": prediction.energy, "energies": prediction.energies,
               "forces": prediction.forces,
               "stress": None if prediction.stress is None else to_voigt(prediction.stress)}
    copied.calc = SinglePointCalculator(copied, **{k: v for k, v in results.items() if v is not None})
    return copied

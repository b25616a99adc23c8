"""Files of labelled structures -> arrays, one structure at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from mlip.elements import SYMBOLS
from mlip.errors import DataError
from mlip.graph.labelled import Labelled
from mlip.io.frames import Frame, iter_frames
from mlip.io.labels import Keys, Names, Units, config_type, labelled, no_energy, unlabelled


def iter_labelled(path: str | Path, keys: Keys | None = None, units: Units | None = None,
                  forces: bool = True, leave_out: Collection[int] = ()) -> Iterator[Labelled]:
    """Yield the labelled structures of a file one at a time; memory does not grow with the file.

    Args:
        path: extended XYZ, also gzip-compressed; any format of ASE; an ASE database (`.db`, `.json`); LMDB files of
            the OMat24 and OMol25 kind (`.aselmdb`) or a folder of them.
        keys: names of the labels, see `Keys`.
        units: of the file; by default eV, Angstrom and eV/Angstrom^3.
        forces: False reads energies alone, whether or not there are forces.
        leave_out: places in the file, from 0, of structures whose labels are not looked at.

    Yields:
        Energies eV, forces eV/A, stress eV/A^3. A lone atom without forces has zero forces; a structure without a
        volume has no stress, whatever the file says.

    Raises:
        DataError: no such file; one that cannot be read; labels that are missing, no numbers, or under different names
            in one file; naming the structure.
    """
    keys, units = keys or Keys(), units or Units()
    used: Names | None = None
    volumes = stresses = 0
    for where, frame in _frames(path, leave_out):
        names = keys.find(frame)
        if names is None:
            raise no_energy(frame, keys, where)
        used = used or names
        if names != used:
            raise DataError(f"{where} has its labels under {', '.join(names)}, those before it under "
                            f"{', '.join(used)}; labels of two methods do not mix: name the right ones by "
                            "energy_key and forces_key")
        entry = labelled(frame, names, keys, units, forces, where)
        volumes += entry.structure.volume is not None
        stresses += entry.stress is not None
        yield entry
    if keys.stress and volumes and not stresses:
        raise DataError(f"{path} has no stress under {keys.stress} in any structure; virials are not read: "
                        "stress = -virial / volume, positive under tension")


def iter_structures(path: str | Path, keys: Keys | None = None, units: Units | None = None,
                    leave_out: Collection[int] = ()) -> Iterator[tuple[str, Labelled]]:
    """Yield the structures of a file that `iter_labelled` reads, whether or not they have labels.

    Yields:
        Where a structure is from, in words, and the structure with its group, no forces, and NaN as its energy.

    Raises:
        DataError: no such file; one that cannot be read, or holds what is no structure, or one without a group.
    """
    keys, units = keys or Keys(), units or Units()
    for where, frame in _frames(path, leave_out):
        structure = unlabelled(frame, units, where)
        yield where, Labelled(structure, float("nan"), None, config_type=config_type(frame, keys, where))


def _frames(path: str | Path, leave_out: Collection[int]) -> Iterator[tuple[str, Frame]]:
    """Yield the frames of a file but those to leave out, and where each is from, in words."""
    leave_out, i = frozenset(leave_out), -1
    for i, frame in enumerate(iter_frames(path)):
        if i not in leave_out:
            yield f"structure {i} of {Path(path).name}", frame
    if i < 0:
        raise DataError(f"{path} holds no structures")
    if leave_out.issuperset(range(i + 1)):
        raise DataError(f"all {i + 1} structures of {path} are to be left out; do not give the file")
    if leave_out and max(leave_out) > i:
        raise DataError(f"{path} has no structure {max(leave_out)} to leave out; it holds {i + 1}, the first is 0")


def read_labelled(path: str | Path, keys: Keys | None = None, units: Units | None = None,
                  forces: bool = True) -> list[Labelled]:
    """Return all structures of `iter_labelled`."""
    return list(iter_labelled(path, keys, units, forces))


def isolated_energies(path: str | Path, keys: Keys | None = None, units: Units | None = None) -> dict[str, float]:
    """Read the energy of each isolated atom, eV, from a file of one-atom structures."""
    energies: dict[str, float] = {}
    for entry in iter_labelled(path, keys, units, forces=False):
        if len(entry.structure) != 1:
            raise DataError(f"{path} must hold isolated atoms; it has {len(entry.structure)} atoms in one place")
        symbol = SYMBOLS[entry.structure.numbers[0]]
        if symbol in energies:
            raise DataError(f"{path} holds the isolated atom {symbol} twice")
        energies[symbol] = entry.energy
    return energies

"""What a frame calls its labels, in which units they are, and what is said where they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.errors import DataError, OptionError, StructureError
from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.io.ase import state_of
from mlip.io.frames import Frame
from mlip.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS, from_voigt

ASYMMETRY = 0.05  # of the largest component; stress tensors beyond are no stress tensors


class Names(NamedTuple):
    """Names of the labels of one method."""

    energy: str
    forces: str
    stress: str


METHODS = (Names("REF_energy", "REF_forces", "REF_stress"), Names("energy", "forces", "stress"))


@dataclass(frozen=True)
class Keys:
    """Names that labels have in `info`, `arrays` or the results of a calculator.

    What is not named is looked for under `REF_energy`, `REF_forces`, `REF_stress`, and where there is no such energy
    under `energy`, `forces`, `stress`. All structures of a file must have their labels under the same names.

    Attributes:
        energy: of the total energy.
        forces: of the forces, [N, 3]; not of gradients, which have the opposite sign.
        stress: of the stress, [3, 3], 9 or 6 numbers (xx, yy, zz, yz, xz, xy), positive under tension: the sign of
            ASE, opposite to what VASP prints. Virials are not read.
        config_type: of the group the structure belongs to; empty where it is absent.
    """

    energy: str = ""
    forces: str = ""
    stress: str = ""
    config_type: str = "config_type"

    def find(self, frame: Frame) -> Names | None:
        """Return the names that a frame has its energy under; None without an energy."""
        mine = (self.energy, self.forces, self.stress)
        known = [Names(*(m or usual for m, usual in zip(mine, method, strict=True))) for method in METHODS]
        present = [names for names in known if frame.info.get(names.energy) is not None]
        if self.energy:  # is that of any method: the forces tell which
            present.sort(key=lambda names: names.forces not in frame.arrays)
        return present[0] if present else None


@dataclass(frozen=True)
class Units:
    """Units of a file: one of `mlip.units.ENERGY_UNITS`, `LENGTH_UNITS` and `STRESS_UNITS` each.

    Forces are in the unit of energy over that of length.
    """

    energy: str = "eV"
    length: str = "Angstrom"
    stress: str = "eV/Angstrom^3"

    def __post_init__(self) -> None:
        for name, allowed in (("energy", ENERGY_UNITS), ("length", LENGTH_UNITS), ("stress", STRESS_UNITS)):
            if getattr(self, name) not in allowed:
                raise OptionError(f"the unit of {name} must be one of {', '.join(allowed)}; {getattr(self, name)!r} "
                                  "was given")


def labelled(frame: Frame, names: Names, keys: Keys, units: Units, forces: bool, where: str) -> Labelled:
    """Return a frame in our units with the labels of these names.

    Raises:
        DataError: a label that is missing, of a wrong shape, NaN or infinite; a structure that cannot be.
    """
    energy_unit, length_unit = ENERGY_UNITS[units.energy], LENGTH_UNITS[units.length]
    structure = unlabelled(frame, units, where)
    energy = _numbers(frame.info[names.energy], names.energy, where)
    if energy.size != 1:
        raise DataError(f"{where}: {names.energy} must be one number; {energy.size} were given")
    stress = frame.info.get(names.stress) if structure.volume is not None else None
    return Labelled(structure, float(energy.reshape(())) * energy_unit,
                    _forces(frame, names.forces, where) * (energy_unit / length_unit) if forces else None,
                    None if stress is None else _stress(stress, names.stress, where) * STRESS_UNITS[units.stress],
                    config_type(frame, keys, where))


def unlabelled(frame: Frame, units: Units, where: str) -> Structure:
    """Return the structure of a frame, A.

    Raises:
        DataError: a structure that cannot be.
    """
    unit = LENGTH_UNITS[units.length]
    try:
        positions = np.asarray(frame.positions, dtype=np.float64) * unit
        cell = None if frame.cell is None else np.asarray(frame.cell, dtype=np.float64) * unit
        structure = Structure.create(frame.numbers, positions, cell, frame.pbc, **state_of(frame.info))
    except (StructureError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from None
    if not len(structure):
        raise DataError(f"{where} has no atoms")
    return structure


def no_energy(frame: Frame, keys: Keys, where: str) -> DataError:
    """Return the error for a frame without an energy."""
    wanted = keys.energy or " or ".join(method.energy for method in METHODS)
    seen = [k for k, v in frame.info.items() if "energy" in k.lower() and np.ndim(v) == 0 and not isinstance(v, str)]
    return DataError(f"{where} has no energy ({wanted}); " + _advice(seen, "numbers", "energy_key"))


def _forces(frame: Frame, name: str, where: str) -> NDArray[np.float64]:
    found, count = frame.arrays.get(name), len(frame.numbers)
    if found is None and count == 1:
        return np.zeros((1, 3))
    if found is None:
        seen = [k for k, v in frame.arrays.items() if np.shape(v) == (count, 3)
                and k not in ("positions", "pos", "momenta", "cell") and np.asarray(v).dtype.kind == "f"]
        raise DataError(f"{where} has an energy but no forces under {name}; "
                        + _advice(seen, "arrays of three numbers for each atom", "forces_key"))
    forces = _numbers(found, name, where)
    if forces.shape != (count, 3):
        raise DataError(f"{where}: {name} have shape {forces.shape}; {count} atoms need ({count}, 3)")
    return forces


def _stress(found: Any, name: str, where: str) -> NDArray[np.float64]:
    stress = _numbers(found, name, where)
    if stress.size not in (6, 9):
        raise DataError(f"{where}: {name} has {stress.size} numbers; a stress has 6 (xx, yy, zz, yz, xz, xy) or 9")
    if stress.size == 6:
        return from_voigt(stress.reshape(6))
    stress = stress.reshape(3, 3)
    if np.abs(stress - stress.T).max() > ASYMMETRY * np.abs(stress).max():
        raise DataError(f"{where}: {name} is not symmetric: {stress.tolist()}")
    return 0.5 * (stress + stress.T)


def _numbers(found: Any, name: str, where: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} are no numbers: {error}") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: {name} are NaN or infinite; leave the structure out (in a recipe: leave_out)")
    return numbers


def config_type(frame: Frame, keys: Keys, where: str) -> str:
    """Return the group of a frame.

    Raises:
        DataError: it has none under a name that is not the usual one.
    """
    found = frame.info.get(keys.config_type)
    if found is None and keys.config_type != Keys.config_type:
        raise DataError(f"{where} has no {keys.config_type}; " + _advice(sorted(frame.info), "entries",
                                                                        "config_type_key"))
    return "" if found is None else str(found)


def _advice(seen: list[str], what: str, option: str) -> str:
    """Return what stands beside the structure that could have been meant, and how to say so."""
    if not seen:
        return f"it has no other {what} that could be meant"
    return f"{what} that it has: {', '.join(seen)}; name the right one by {option}"

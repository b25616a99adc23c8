"""`DataConfig`: which files a model is trained, validated and tested on, and what they call their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlip.elements import NUMBERS
from mlip.errors import OptionError

FILES = ("train", "valid", "test")


@dataclass(frozen=True)
class DataConfig:
    """The table `[data]` of a training run.

    Attributes:
        train: files to train on: extended XYZ, any format of ASE, ASE databases, LMDB files or folders of them.
        valid: files to validate with.
        valid_fraction: share of the training structures that is held out where `valid` is empty.
        test: files to measure the trained model with.
        seed: of the choice of what is held out.
        isolated: file with an isolated atom of each element, for the energies of reference.
        isolated_energies: the same energies by symbol, in `energy_unit`. Without either, those of isolated atoms among
            the training data; without these, a least-squares fit.
        energy_key: name of the total energy; by default `REF_energy`, else `energy`.
        forces_key: name of the forces; by default `REF_forces`, else `forces`.
        stress_key: name of the stress; by default `REF_stress`, else `stress`.
        config_type_key: name of the group that a structure belongs to.
        energy_unit: one of `mlip.units.ENERGY_UNITS`; forces are in this over `length_unit`.
        length_unit: one of `mlip.units.LENGTH_UNITS`, of positions and cells.
        stress_unit: one of `mlip.units.STRESS_UNITS`; stress is positive under tension.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    valid_fraction: float = 0.1
    test: tuple[str, ...] = ()
    seed: int = 0
    isolated: str = ""
    isolated_energies: Mapping[str, float] | None = None
    energy_key: str = ""
    forces_key: str = ""
    stress_key: str = ""
    config_type_key: str = "config_type"
    energy_unit: str = "eV"
    length_unit: str = "Angstrom"
    stress_unit: str = "eV/Angstrom^3"

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> DataConfig:
        """Return the configuration of a TOML table; a file may stand alone or in a list.

        Raises:
            OptionError: a name or a value that is not allowed.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(table) - set(known))
        if unknown:
            raise OptionError(f"data: unknown option(s) {', '.join(unknown)}; allowed are {', '.join(known)}")
        if "train" not in table:
            raise OptionError("data: train is missing; give the file(s) to train on")
        return cls(**{k: _files(v) if k in FILES else v for k, v in table.items()})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in FILES and not _is_files(value):
                raise OptionError(f"data: {field.name} must be a list of files; {value!r} was given")
            if isinstance(field.default, str) and not isinstance(value, str):
                raise OptionError(f"data: {field.name} must be a text; {value!r} was given")
        if not self.train:
            raise OptionError("data: train is empty; give the file(s) to train on")
        if not _is_number(self.valid_fraction) or not 0 < self.valid_fraction < 1:
            raise OptionError(f"data: valid_fraction must lie between 0 and 1; {self.valid_fraction!r} was given")
        if type(self.seed) is not int or self.seed < 0:
            raise OptionError(f"data: seed must be a whole number from 0; {self.seed!r} was given")
        self._check_isolated()

    def _check_isolated(self) -> None:
        energies = self.isolated_energies
        if energies is None:
            return
        if self.isolated:
            raise OptionError("data: isolated and isolated_energies are two answers to one question; give one")
        if not isinstance(energies, Mapping) or not all(k in NUMBERS and _is_number(v) for k, v in energies.items()):
            raise OptionError("data: isolated_energies must give energies by symbol, such as {H = -13.6}; "
                              f"{energies!r} was given")


def _files(value: Any) -> Any:
    """Return the files of a TOML value as a tuple; what is no list of texts is left to the checks."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _is_files(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(path, str) and path for path in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")

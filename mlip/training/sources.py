"""`DataConfig`: which files a model is trained, validated and tested on; `load_data` reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.elements import NUMBERS, SYMBOLS
from mlip.errors import DataError, OptionError
from mlip.io.dataset import isolated_energies, iter_labelled
from mlip.io.frames import files_of
from mlip.io.labels import Keys, Units
from mlip.training.data import split
from mlip.training.store import FrameStore
from mlip.training.tables import as_files, check_table, is_files, is_number
from mlip.units import ENERGY_UNITS

FILES = ("train", "valid", "test")
ISOLATED = "isolatedatom"  # config_type, in lower case, of an isolated atom in a periodic box


@dataclass(frozen=True)
class DataConfig:
    """The table `[data]` of a training run.

    Attributes:
        train: files to train on: extended XYZ, any format of ASE, ASE databases, LMDB files or folders of them.
        valid: files to validate with.
        valid_fraction: share of the training structures that is held out at random where `valid` is empty. Neighbours
            in a trajectory are much alike, so that files of their own tell more.
        test: files to measure the trained model with.
        leave_out: places of structures, from 0, in each of the files that has any which should be used for nothing.
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
    leave_out: Mapping[str, Sequence[int]] = field(default_factory=dict)
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

    @property
    def keys(self) -> Keys:
        """Names of the labels."""
        return Keys(self.energy_key, self.forces_key, self.stress_key, self.config_type_key)

    @property
    def units(self) -> Units:
        """Units of the files."""
        return Units(self.energy_unit, self.length_unit, self.stress_unit)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> DataConfig:
        """Return the configuration of a TOML table; a file may stand alone or in a list.

        Raises:
            OptionError: a name or a value that is not allowed.
        """
        check_table(table, cls, "data", "train", "the file(s) to train on")
        return cls(**{k: as_files(v) if k in FILES else v for k, v in table.items()})

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name in FILES and not is_files(value):
                raise OptionError(f"data: {option.name} must be a list of files; {value!r} was given")
            if isinstance(option.default, str) and not isinstance(value, str):
                raise OptionError(f"data: {option.name} must be a text; {value!r} was given")
        if not self.train:
            raise OptionError("data: train is empty; give the file(s) to train on")
        if not is_number(self.valid_fraction) or not 0 < self.valid_fraction < 1:
            raise OptionError(f"data: valid_fraction must lie between 0 and 1; {self.valid_fraction!r} was given")
        if type(self.seed) is not int or self.seed < 0:
            raise OptionError(f"data: seed must be a whole number from 0; {self.seed!r} was given")
        if not (isinstance(self.leave_out, Mapping) and all(
                isinstance(places, (list, tuple)) and all(type(place) is int and place >= 0 for place in places)
                for places in self.leave_out.values())):
            raise OptionError("data: leave_out must give places of structures, from 0, by file, such as "
                              f'{{"train.xyz" = [7, 8]}}; {self.leave_out!r} was given')
        self.units  # noqa: B018  raises for a unit that is not known
        self._check_isolated()

    def _check_isolated(self) -> None:
        energies = self.isolated_energies
        if energies is None:
            return
        if self.isolated:
            raise OptionError("data: isolated and isolated_energies are two answers to one question; give one")
        if not isinstance(energies, Mapping) or not all(k in NUMBERS and is_number(v) for k, v in energies.items()):
            raise OptionError("data: isolated_energies must give energies by symbol, such as {H = -13.6}; "
                              f"{energies!r} was given")


@dataclass(frozen=True)
class Data:
    """What a model is trained, validated and tested on.

    Attributes:
        training: structures to train on.
        validation: structures to validate with.
        test: structures to measure the trained model with; often none.
        isolated: energy of each isolated atom, eV, by symbol; None where the data and the configuration have none.
    """

    training: FrameStore
    validation: FrameStore
    test: FrameStore
    isolated: dict[str, float] | None

    @property
    def left_out(self) -> int:
        """How many structures of the files are used for nothing, as the configuration says."""
        return sum(map(len, self.training.about["left_out"].values()))

    @property
    def parts(self) -> dict[str, FrameStore]:
        """The three parts by name."""
        return {"training": self.training, "validation": self.validation, "test": self.test}


def load_data(config: DataConfig, folder: str | Path, base: str | Path = ".", forces: bool = True) -> Data:
    """Read the files of a run into a `FrameStore` in `folder/frames`, or open it where they have not changed.

    Isolated atoms (structures of one atom without periodicity, or of the config_type IsolatedAtom) are no examples:
    they are left out of all parts, and those of the training files give the energies of reference if no others are
    given. Structures held out at random that also occur in what is left are put back to training.

    Args:
        config: the files and their labels.
        folder: of the run.
        base: folder that relative paths start from.
        forces: False reads energies alone.

    Raises:
        DataError: a file that is missing, unreadable, given twice, or lacks labels or structures to leave out;
            contradicting isolated atoms; too few structures.
        OptionError: structures to leave out of none of the files.
    """
    about = _signature(config, Path(base), forces)
    store = _opened(Path(folder) / "frames", about)
    if store is None:
        named = {name: iter_labelled(Path(base) / Path(name).expanduser(), config.keys, config.units, forces,
                                     config.leave_out.get(name, ()))
                 for part in FILES for name in getattr(config, part)}
        store = FrameStore.pack(Path(folder) / "frames", named, about)
    lone = _isolated(store)
    by_part = np.repeat(np.arange(len(FILES)), [sum(store.counts[name] for name in getattr(config, part))
                                                for part in FILES])
    training, validation, test = (np.flatnonzero((by_part == k) & ~lone) for k in range(len(FILES)))
    given = _given_energies(config, Path(base))
    if given is None:
        given = _energies_of(store.subset(np.flatnonzero(lone & (by_part == 0))))
    if not config.valid:
        training, validation = _held_out(store, training, config)
    for name, indices in (("train", training), ("valid", validation)):
        if not len(indices):
            raise DataError(f"data: the files of {name} hold isolated atoms and nothing to learn from")
    return Data(store.subset(training), store.subset(validation), store.subset(test), given)


def _signature(config: DataConfig, base: Path, forces: bool) -> dict[str, Any]:
    """Return what the store depends on, as JSON gives it back."""
    names = [name for part in FILES for name in getattr(config, part)]
    paths = [base / Path(name).expanduser() for name in names]
    seen: dict[Path, str] = {}
    states = []
    for name, path in zip(names, paths, strict=True):
        files = files_of(path)
        if seen.setdefault(path.resolve(), name) != name or names.count(name) > 1:
            raise DataError(f"data: {name} is given twice; a file belongs to one of {', '.join(FILES)}, once")
        found = [file.stat() for file in files]
        states.append([name, str(path.resolve()), sum(s.st_size for s in found), max(s.st_mtime_ns for s in found)])
    if strange := sorted(set(config.leave_out) - set(names)):
        raise OptionError(f"data: leave_out names {', '.join(strange)}, none of the files: {', '.join(names)}")
    left = {name: sorted(set(places)) for name, places in config.leave_out.items()}
    return {"files": states, "left_out": left, "keys": list(dataclasses.astuple(config.keys)),
            "units": list(dataclasses.astuple(config.units)), "forces": forces}


def _opened(folder: Path, about: dict[str, Any]) -> FrameStore | None:
    """Return the store of exactly these files; None where there is none."""
    try:
        store = FrameStore.open(folder)
    except DataError:
        return None
    return store if store.about == about else None


def _isolated(store: FrameStore) -> NDArray[np.bool_]:
    """[n] bool: whether a structure is an isolated atom."""
    named = np.array([name.lower() == ISOLATED for name in store.config_types])[store.column("config_type")]
    return np.asarray((store.column("atoms") == 1) & (named | ~store.column("pbc").any(axis=1)))


def _given_energies(config: DataConfig, base: Path) -> dict[str, float] | None:
    if config.isolated_energies is not None:
        return {k: float(v) * ENERGY_UNITS[config.energy_unit] for k, v in config.isolated_energies.items()}
    if not config.isolated:
        return None
    return isolated_energies(base / Path(config.isolated).expanduser(), Keys(config.energy_key), config.units)


def _energies_of(lone: FrameStore) -> dict[str, float] | None:
    energies: dict[str, float] = {}
    for i, example in enumerate(lone):
        symbol = SYMBOLS[example.structure.numbers[0]]
        if energies.setdefault(symbol, example.energy) != example.energy:
            raise DataError(f"data: {lone.origin(i)} is a second isolated atom {symbol}, of {example.energy} eV after "
                            f"{energies[symbol]} eV; leave one of them, or give isolated_energies")
    return energies or None


def _held_out(store: FrameStore, training: NDArray[np.int64],
              config: DataConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split at random, and put back to training structures that occur there, too, or alone have an element."""
    if len(training) < 2:
        raise DataError(f"data: {len(training)} structure(s) to train on are too few to hold out some of them for "
                        "validation; give more, or files for valid")
    kept, held = (training[part] for part in split(range(len(training)), config.valid_fraction, config.seed))
    first = store.repeats()
    back = np.isin(first[held], first[kept])
    known = {z for _, _, arrays in store.subset(kept).blocks() for z in np.unique(arrays["numbers"]).tolist()}
    back |= np.array([not known.issuperset(store[int(i)].structure.numbers.tolist()) for i in held])
    if back.all():
        raise DataError("data: all structures held out for validation are copies of others, or have elements that no "
                        "other has; give files for valid")
    return np.concatenate([kept, held[back]]), held[~back]

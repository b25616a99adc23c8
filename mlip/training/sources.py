"""`DataConfig`: which files a model is trained, validated and tested on; `load_data` reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlip.elements import NUMBERS, SYMBOLS
from mlip.errors import DataError, OptionError
from mlip.graph.labelled import Labelled
from mlip.io.dataset import isolated_energies, iter_labelled
from mlip.io.labels import Keys
from mlip.training.data import split
from mlip.training.files import FileOptions, isolated_atoms
from mlip.training.store import FrameStore
from mlip.training.tables import is_number
from mlip.units import ENERGY_UNITS


@dataclass(frozen=True)
class DataConfig(FileOptions):
    """The table `[data]` of a training run; names and units of its labels, see `FileOptions`.

    Attributes:
        train: files to train on: extended XYZ, any format of ASE, ASE databases, LMDB files or folders of them.
        valid: files to validate with.
        valid_fraction: share of the training structures that is held out at random where `valid` is empty. Neighbours
            in a trajectory are much alike, so that files of their own tell more.
        test: files to measure the trained model with.
        seed: of the choice of what is held out.
        isolated: file with an isolated atom of each element, for the energies of reference.
        isolated_energies: the same energies by symbol, in `energy_unit`. Without either, those of isolated atoms among
            the training data; without these, a least-squares fit.
    """

    table = "data"
    lists = ("train", "valid", "test")

    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    valid_fraction: float = 0.1
    test: tuple[str, ...] = ()
    seed: int = 0
    isolated: str = ""
    isolated_energies: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.valid_fraction) or not 0 < self.valid_fraction < 1:
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
    def read(name: str, path: Path) -> Iterable[Labelled]:
        return iter_labelled(path, config.keys, config.units, forces, config.leave_out.get(name, ()))

    store = config.stored(Path(folder) / "frames", Path(base), read, forces=forces)
    lone = isolated_atoms(store)
    by_part = np.repeat(np.arange(len(config.lists)),
                        [sum(store.counts[name] for name in getattr(config, part)) for part in config.lists])
    training, validation, test = (np.flatnonzero((by_part == k) & ~lone) for k in range(len(config.lists)))
    given = _given_energies(config, Path(base))
    if given is None:
        given = _energies_of(store.subset(np.flatnonzero(lone & (by_part == 0))))
    if not config.valid:
        training, validation = _held_out(store, training, config)
    for name, indices in (("train", training), ("valid", validation)):
        if not len(indices):
            raise DataError(f"data: the files of {name} hold isolated atoms and nothing to learn from")
    return Data(store.subset(training), store.subset(validation), store.subset(test), given)


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

"""`FileOptions`: files of labelled structures, how they name their labels, in which units -> a `FrameStore`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlip.errors import DataError, OptionError
from mlip.graph.labelled import Labelled
from mlip.io.frames import files_of
from mlip.io.labels import Keys, Units
from mlip.training.store import FrameStore
from mlip.training.tables import as_files, check_table, is_files

if TYPE_CHECKING:
    from typing_extensions import Self

ISOLATED = "isolatedatom"  # config_type, in lower case, of an isolated atom in a periodic box


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What the tables of a recipe that name files have in common: `[data]` and `[start.replay]`.

    `lists` names the fields that hold files, `table` the table itself.

    Attributes:
        leave_out: places of structures, from 0, in each of the files that has any which should be used for nothing.
        energy_key: name of the total energy; by default `REF_energy`, else `energy`.
        forces_key: name of the forces; by default `REF_forces`, else `forces`.
        stress_key: name of the stress; by default `REF_stress`, else `stress`.
        config_type_key: name of the group that a structure belongs to.
        energy_unit: one of `mlip.units.ENERGY_UNITS`; forces are in this over `length_unit`.
        length_unit: one of `mlip.units.LENGTH_UNITS`, of positions and cells.
        stress_unit: one of `mlip.units.STRESS_UNITS`; stress is positive under tension.
    """

    table: ClassVar[str]
    lists: ClassVar[tuple[str, ...]]

    leave_out: Mapping[str, Sequence[int]] = field(default_factory=dict)
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

    @property
    def names(self) -> list[str]:
        """All files."""
        return [name for part in self.lists for name in getattr(self, part)]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Return the configuration of a TOML table; a file may stand alone or in a list.

        Raises:
            OptionError: a name or a value that is not allowed.
        """
        check_table(table, cls, cls.table, cls.lists[0], "the file(s)")
        return cls(**{k: as_files(v) if k in cls.lists else v for k, v in table.items()})

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name in self.lists and not is_files(value):
                raise OptionError(f"{self.table}: {option.name} must be a list of files; {value!r} was given")
            if isinstance(option.default, str) and not isinstance(value, str):
                raise OptionError(f"{self.table}: {option.name} must be a text; {value!r} was given")
        if not getattr(self, self.lists[0]):
            raise OptionError(f"{self.table}: {self.lists[0]} is empty; give the file(s)")
        if not (isinstance(self.leave_out, Mapping) and all(
                isinstance(places, (list, tuple)) and all(type(place) is int and place >= 0 for place in places)
                for places in self.leave_out.values())):
            raise OptionError(f"{self.table}: leave_out must give places of structures, from 0, by file, such as "
                              f'{{"train.xyz" = [7, 8]}}; {self.leave_out!r} was given')
        self.units  # noqa: B018  raises for a unit that is not known

    def stored(self, folder: Path, base: Path, read: Callable[[str, Path], Iterable[Labelled]],
               **origin: Any) -> FrameStore:
        """Return the structures of all files from a store in a folder, packed anew where they have changed.

        Args:
            folder: of the store.
            base: folder that relative paths start from.
            read: gives the structures of a file from its name and path.
            origin: what else the labels depend on, as JSON gives it back.

        Raises:
            DataError: a file that is missing, unreadable, given twice, or lacks labels or structures to leave out.
            OptionError: structures to leave out of none of the files.
        """
        about = self._signature(base) | origin
        try:
            store = FrameStore.open(folder)
            if store.about == about:
                return store
        except DataError:  # there is none yet
            pass
        return FrameStore.pack(folder, {name: read(name, base / Path(name).expanduser()) for name in self.names}, about)

    def _signature(self, base: Path) -> dict[str, Any]:
        """Return what the store depends on, as JSON gives it back."""
        seen: set[Path] = set()
        states = []
        for name in self.names:
            path = base / Path(name).expanduser()
            files = files_of(path)
            if path.resolve() in seen:
                raise DataError(f"{self.table}: {name} is given twice; give it once" + (
                                    f", in one of {', '.join(self.lists)}" if len(self.lists) > 1 else ""))
            seen.add(path.resolve())
            found = [file.stat() for file in files]
            states.append([name, str(path.resolve()), sum(s.st_size for s in found), max(s.st_mtime_ns for s in found)])
        if strange := sorted(set(self.leave_out) - set(self.names)):
            raise OptionError(f"{self.table}: leave_out names {', '.join(strange)}, none of the files: "
                              f"{', '.join(self.names)}")
        left = {name: sorted(set(places)) for name, places in self.leave_out.items()}
        return {"files": states, "left_out": left, "keys": list(dataclasses.astuple(self.keys)),
                "units": list(dataclasses.astuple(self.units))}


def isolated_atoms(store: FrameStore) -> NDArray[np.bool_]:
    """[n] bool: whether a structure is an isolated atom, without periodicity or of the config_type IsolatedAtom."""
    named = np.array([name.lower() == ISOLATED for name in store.config_types])[store.column("config_type")]
    return np.asarray((store.column("atoms") == 1) & (named | ~store.column("pbc").any(axis=1)))

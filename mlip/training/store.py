"""`FrameStore`: labelled structures in a folder of flat files, mapped into memory.

A data set of any size is read in any order by any number of processes, and memory holds what is in use. `frames.bin`
has a record for each structure; `numbers.bin`, `positions.bin` and `forces.bin` have a row for each atom; `store.json`,
written last, has the rest.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.errors import DataError
from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.training.duplicates import marks, repeated

ABANDONED = 600.0  # s without a change, of what is being packed
FORMAT = 1
UNKNOWN = -(2**31)  # a charge or spin that was not given
FRAME = np.dtype([("first", "<i8"), ("atoms", "<i4"), ("energy", "<f8"), ("cell", "<f8", (3, 3)), ("pbc", "?", (3,)),
                  ("has_forces", "?"), ("has_stress", "?"), ("stress", "<f8", (3, 3)), ("charge", "<i4"),
                  ("spin", "<i4"), ("head", "<i4"), ("config_type", "<i4"), ("marks", "<f8", (2,))])
ATOMS: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
    "numbers": (np.dtype("u1"), ()), "positions": (np.dtype("<f8"), (3,)), "forces": (np.dtype("<f8"), (3,))}


class FrameStore(Sequence[Labelled]):
    """Labelled structures in a folder, or some of them: a sequence that reads what is asked for.

    Attributes:
        folder: of the files.
        about: what `pack` was told of the origin of the data.
        indices: [n] places in the folder of the structures of this sequence.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]],
                 indices: NDArray[np.int64]) -> None:
        self.folder, self.indices = folder, indices
        self.about: dict[str, Any] = content["about"]
        self._content, self._arrays = content, arrays

    @classmethod
    def pack(cls, folder: str | Path, frames: Iterable[Labelled] | Mapping[str, Iterable[Labelled]],
             about: Mapping[str, Any] | None = None) -> FrameStore:
        """Write structures one after the other into a folder and open it; a store that is there is replaced.

        Nothing that opens is left behind where this is killed or fails. Of several processes that do so at once, the
        files of the last one stay.

        Args:
            folder: made, with those above it.
            frames: the structures, or those of each file by its name, see `origin`.
            about: kept, as JSON, in `store.json`.

        Raises:
            DataError: there are no structures, or the folder holds something else.
        """
        target = Path(folder)
        if target.exists() and not (target / "store.json").is_file():
            raise DataError(f"{target} holds no packed structures and is not overwritten; move it away, or give "
                            "another folder")
        _clean(target)
        part = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
        part.mkdir(parents=True)
        sources = frames if isinstance(frames, Mapping) else {"": frames}
        try:
            content = {**_write(part, sources), "about": dict(about or {})}
            with (part / "store.json").open("w") as file:
                json.dump(content, file)
            store = cls.open(part)  # what is mapped stays, whoever else writes to the same place
            _exchange(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        store.folder = target
        return store

    @classmethod
    def open(cls, folder: str | Path) -> FrameStore:
        """Open what `pack` has written.

        Raises:
            DataError: there is none, or it is damaged or of another version.
        """
        source = Path(folder)
        try:
            content = json.loads((source / "store.json").read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{source} is no store of structures ({error}); pack the data again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{source} was written by another version; delete it and pack the data again")
        try:
            arrays = {"frames": _mapped(source / "frames.bin", FRAME, (content["frames"],))}
            for name, (dtype, shape) in ATOMS.items():
                arrays[name] = _mapped(source / f"{name}.bin", dtype, (content["atoms"], *shape))
        except (OSError, ValueError) as error:
            raise DataError(f"{source} is damaged ({error}); delete it and pack the data again") from None
        return cls(source, content, arrays, np.arange(content["frames"]))

    def subset(self, indices: ArrayLike) -> FrameStore:
        """Return the structures at these places of this sequence; nothing is read."""
        return FrameStore(self.folder, self._content, self._arrays, self.indices[np.asarray(indices, dtype=np.int64)])

    def joined(self, *others: FrameStore) -> FrameStore:
        """Return the structures of this and other sequences of the same folder in turn.

        Raises:
            DataError: another folder.
        """
        for other in others:
            if other.folder != self.folder:
                raise DataError(f"structures of {other.folder} and of {self.folder} are no parts of one data set; pack "
                                "them into one folder")
        return FrameStore(self.folder, self._content, self._arrays,
                          np.concatenate([store.indices for store in (self, *others)]))

    @property
    def fingerprint(self) -> str:
        """Sha256 of what the folder holds, and of which structures of it are in this sequence in which order."""
        whole = str(self._content["sha256"])
        if np.array_equal(self.indices, np.arange(self._content["frames"])):
            return whole
        return hashlib.sha256(whole.encode() + self.indices.astype("<i8").tobytes()).hexdigest()

    def column(self, name: str) -> NDArray[Any]:
        """Return [n, ...] one field of `FRAME` for each structure of this sequence, a copy."""
        return self._arrays["frames"][name][self.indices]

    @property
    def config_types(self) -> tuple[str, ...]:
        """Names of the groups; `column("config_type")` are places in it."""
        return tuple(self._content["config_types"])

    @property
    def elements(self) -> NDArray[np.int64]:
        """[k] atomic numbers that occur in the folder, in order."""
        return np.array(self._content["elements"], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Number of structures in the folder from each file."""
        return dict(self._content["sources"])

    def by_file(self) -> dict[str, FrameStore]:
        """Return the structures of this sequence from each file that has any, by its name."""
        counts = self.counts
        file = np.repeat(np.arange(len(counts)), list(counts.values()))[self.indices]
        return {name: self.subset(np.flatnonzero(file == k)) for k, name in enumerate(counts) if (file == k).any()}

    def repeats(self) -> NDArray[np.int64]:
        """Return [n] the first place in this sequence with the same atoms and lattice, see `duplicates`."""
        return repeated(self.column("marks"), self.column("atoms"), lambda i: self[i].structure)

    def occur_in(self, other: FrameStore) -> NDArray[np.bool_]:
        """[n] bool: whether a structure of this sequence occurs in another one, of any folder."""
        known = len(other)
        found, sizes = (np.concatenate([store.column(name) for store in (other, self)]) for name in ("marks", "atoms"))
        first = repeated(found, sizes, lambda i: (other[i] if i < known else self[i - known]).structure)
        return np.asarray(first[known:] < known)

    def origin(self, index: int) -> str:
        """Return in words where a structure of this sequence comes from."""
        place = int(self.indices[index])
        for name, count in self._content["sources"]:
            if place < count:
                for left in self.about.get("left_out", {}).get(name, ()):  # was not read
                    place += place >= left
                return f"structure {place} of {name}" if name else f"structure {place}"
            place -= count
        raise IndexError(index)

    def blocks(self, atoms: int = 2**18) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Any]]]:
        """Yield the arrays of all atoms in blocks of whole structures.

        Args:
            atoms: about so many in a block.

        Yields:
            Places [b] of structures in this sequence, the first row [b] of each in the arrays, and the arrays by name:
            `numbers`, `positions`, `forces`.
        """
        first, count = self.column("first"), self.column("atoms").astype(np.int64)
        ends = np.cumsum(count)
        cuts = np.searchsorted(ends, np.arange(atoms, ends[-1] if len(ends) else 0, atoms)) + 1
        for begin, end in itertools.pairwise(np.unique([0, *cuts, len(ends)])):
            sizes = count[begin:end]
            rows = np.cumsum(sizes) - sizes
            places = np.repeat(first[begin:end] - rows, sizes) + np.arange(sizes.sum())
            yield np.arange(begin, end), rows, {name: self._arrays[name][places] for name in ATOMS}

    def remember(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return numbers that were computed before for the same structures, else compute and keep them as JSON."""
        file = self.folder / "statistics.json"
        try:
            known = json.loads(file.read_text())
        except (OSError, ValueError):
            known = {}
        key = f"{self.fingerprint} {name}"
        if key not in known:
            known[key] = compute()
            part = file.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(known))
            os.replace(part, file)
        return dict(known[key])

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> FrameStore: ...
    def __getitem__(self, index: int | slice) -> Labelled | FrameStore:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        record = self._arrays["frames"][self.indices[index]]
        atoms = slice(int(record["first"]), int(record["first"]) + int(record["atoms"]))
        head = int(record["head"])
        structure = Structure(self._arrays["numbers"][atoms].astype(np.int64),
                              np.array(self._arrays["positions"][atoms]), np.array(record["cell"]),
                              np.array(record["pbc"]), _known(record["charge"]), _known(record["spin"]),
                              None if head < 0 else self._content["heads"][head])
        return Labelled(structure, float(record["energy"]),
                        np.array(self._arrays["forces"][atoms]) if record["has_forces"] else None,
                        np.array(record["stress"]) if record["has_stress"] else None,
                        self._content["config_types"][record["config_type"]])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.indices)


def _reopened(folder: Path, indices: NDArray[np.int64]) -> FrameStore:
    return FrameStore.open(folder).subset(indices)


def _known(number: Any) -> int | None:
    return None if number == UNKNOWN else int(number)


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    expected = dtype.itemsize * int(np.prod(shape))
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {expected}")
    return np.memmap(path, dtype, "r", shape=shape)


def _clean(target: Path) -> None:
    """Delete what processes that were killed have left beside a store; who still writes has touched it just now."""
    for part in (path for ending in ("part", "old") for path in target.parent.glob(f"{target.name}.*.{ending}")):
        try:
            touched = max(path.stat().st_mtime for path in (part, *part.glob("*")))
        except FileNotFoundError:  # its process has just finished
            continue
        if time.time() - touched > ABANDONED:
            shutil.rmtree(part, ignore_errors=True)


def _exchange(part: Path, target: Path) -> None:
    """Move a new store to the place of an old one, which readers keep until they close it."""
    old = part.with_suffix(".old")
    for _ in range(10):
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(part, target)
            return
        except OSError:  # another process was faster; its store is replaced
            continue
        finally:
            shutil.rmtree(old, ignore_errors=True)
    raise DataError(f"{target} cannot be written: other processes write it, too")


def _write(folder: Path, sources: Mapping[str, Iterable[Labelled]]) -> dict[str, Any]:
    """Write the flat files and return the content of `store.json`."""
    heads: dict[str, int] = {}
    config_types: dict[str, int] = {}
    digest, counts, atoms, seen = hashlib.sha256(), [], 0, np.zeros(256, dtype=bool)
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {
            name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in ("frames", *ATOMS)}
        for name, frames in sources.items():
            count = 0
            for frame in frames:
                record = _record(frame, atoms, heads, config_types)
                parts: dict[str, Any] = {
                    "frames": record, "numbers": frame.structure.numbers, "positions": frame.structure.positions,
                    "forces": np.zeros((len(frame.structure), 3)) if frame.forces is None else frame.forces}
                for part, values in parts.items():
                    dtype = FRAME if part == "frames" else ATOMS[part][0]
                    content = np.ascontiguousarray(values, dtype=dtype).tobytes()
                    files[part].write(content)
                    digest.update(content if part != "frames" else _told(record))
                atoms += len(frame.structure)
                seen[frame.structure.numbers] = True
                count += 1
            counts.append((name, count))
    digest.update(json.dumps([list(heads), list(config_types)]).encode())
    if not atoms:
        raise DataError("there are no labelled structures to pack")
    return {"format": FORMAT, "frames": sum(count for _, count in counts), "atoms": atoms, "sources": counts,
            "elements": np.flatnonzero(seen).tolist(), "heads": list(heads), "config_types": list(config_types),
            "sha256": digest.hexdigest()}


def _told(record: NDArray[Any]) -> bytes:
    """Return what data say of a structure, without its marks: their last digits are those of a machine."""
    told = record.copy()
    told["marks"] = 0
    return told.tobytes()


def _record(frame: Labelled, first: int, heads: dict[str, int], config_types: dict[str, int]) -> NDArray[Any]:
    s = frame.structure
    record = np.zeros((), dtype=FRAME)
    record["first"], record["atoms"], record["energy"] = first, len(s), frame.energy
    record["cell"], record["pbc"], record["marks"] = s.cell, s.pbc, marks(s)
    record["has_forces"] = frame.forces is not None
    record["has_stress"] = frame.stress is not None
    record["stress"] = 0.0 if frame.stress is None else frame.stress
    record["charge"] = UNKNOWN if s.charge is None else s.charge
    record["spin"] = UNKNOWN if s.spin is None else s.spin
    record["head"] = -1 if s.head is None else heads.setdefault(s.head, len(heads))
    record["config_type"] = config_types.setdefault(frame.config_type, len(config_types))
    return record

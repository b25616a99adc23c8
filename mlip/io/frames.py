"""Files of structures -> frames, one at a time: extended XYZ, formats of ASE, databases in SQLite, JSON and LMDB."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread

from mlip.errors import DataError, MLIPError
from mlip.io.extxyz import iter_extxyz
from mlip.io.lmdb import iter_lmdb, lmdb_files

XYZ = (".xyz", ".extxyz")
DATABASES = (".db", ".json")
PAGE = 500  # rows


@dataclass(frozen=True)
class Frame:
    """One structure of a file and what stands beside it, in the units of the file.

    Attributes:
        numbers: [N] atomic numbers.
        positions: [N, 3].
        cell: [3, 3] rows, or None.
        pbc: one flag or three.
        info: values of the structure by name; those of a calculator last in line.
        arrays: values of its atoms, [N, ...], by name; those of a calculator last in line.
    """

    numbers: Any
    positions: Any
    cell: Any
    pbc: Any
    info: Mapping[str, Any]
    arrays: Mapping[str, Any]

    @classmethod
    def of_atoms(cls, atoms: Atoms) -> Frame:
        """Return the frame of ASE atoms."""
        results = atoms.calc.results if atoms.calc is not None else {}
        return cls(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, {**results, **atoms.info},
                   {**results, **atoms.arrays})

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Frame:
        """Return the frame of a row of an ASE database: its results, `data` and `key_value_pairs`."""
        beside = {k: v for k, v in row.items() if k not in ("data", "key_value_pairs")}
        beside.update(row.get("data") or {})
        beside.update(row.get("key_value_pairs") or {})
        return cls(row["numbers"], row["positions"], row.get("cell"), row.get("pbc", False), beside, beside)


def iter_frames(path: str | Path) -> Iterator[Frame]:
    """Yield the structures of a file, or of a folder of LMDB files, one at a time.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    source = Path(path).expanduser()
    files_of(source)
    count = 0
    try:
        for frame in _frames(source):
            yield frame
            count += 1
    except MLIPError:
        raise
    except Exception as error:  # ASE's readers raise whatever the content makes them stumble over
        raise DataError(f"{source} cannot be read as structures, from number {count} on: {type(error).__name__}: "
                        f"{error}") from None


def files_of(path: Path) -> list[Path]:
    """Return the files that `iter_frames` reads: one, or those of a folder.

    Raises:
        DataError: there is none.
    """
    files = lmdb_files(path) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise DataError(f"there is no file {path}" + (": it is a folder without LMDB files (*.aselmdb)"
                                                      if path.is_dir() else ""))
    return files


def _frames(path: Path) -> Iterator[Frame]:
    inner = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if path.is_dir() or path.suffix in (".aselmdb", ".lmdb"):
        yield from (Frame.of_row(row) for file in lmdb_files(path) for row in iter_lmdb(file))
    elif inner in XYZ:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as text:
            for content in iter_extxyz(text):
                yield Frame.of_atoms(content) if isinstance(content, Atoms) else Frame(*content)
    elif path.suffix in DATABASES:
        yield from _database(path)
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as file:
            yield from map(Frame.of_atoms, iread(file, ":", format=inner.lstrip(".")))
    else:
        yield from map(Frame.of_atoms, iread(path, ":"))


def _database(path: Path) -> Iterator[Frame]:
    """Yield the rows of an ASE database; of SQLite in pages, which ASE holds in memory as a whole."""
    from ase.db import connect

    paged = {"limit": PAGE, "sort": "id"} if path.suffix == ".db" else {}
    with connect(path, use_lock_file=False) as database:
        last: int | None = 0
        while last is not None:
            start, last = last, None
            for row in database.select(f"id>{start}", **paged):
                yield Frame.of_row({**{k: row[k] for k in row}, "cell": np.asarray(row.cell), "data": row.data})
                last = row.id if paged else None

"""ASE databases in LMDB files, the layout of OMat24 and OMol25: rows of JSON, compressed, without pickles.

The layout is that of fairchem's `LMDBDatabase`: the key of a row is its number in ASCII, from 1; `nextid` tells the
next, `deleted_ids` and `metadata` are no rows. Arrays are lists, or `{"__ndarray__": [shape, dtype, values]}`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlip.errors import DataError, MissingDependencyError

ENDINGS = ("*.aselmdb", "*.lmdb")


def lmdb_files(path: Path) -> list[Path]:
    """Return the LMDB files of a folder and the folders in it, in order; a file by itself."""
    if path.is_file():
        return [path]
    inner = path / "data.mdb"  # the folder is one database
    return [inner] if inner.is_file() else sorted(file for ending in ENDINGS for file in path.rglob(ending))


def iter_lmdb(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one LMDB file in the order of their numbers.

    Raises:
        MissingDependencyError: the package lmdb is not installed.
        DataError: an entry that is no row, such as a pickle.
    """
    try:
        import lmdb
    except ImportError:
        raise MissingDependencyError.of("lmdb", "train") from None
    with (lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False) as environment,
          environment.begin() as transaction):
        stored = transaction.get(b"nextid")
        end = environment.stat()["entries"] + 1 if stored is None else int(_content(stored, "nextid", path))
        for number in range(1, end):
            value = transaction.get(str(number).encode())
            if value is None:  # deleted
                continue
            row = _content(value, str(number), path)
            if not isinstance(row, dict) or "numbers" not in row or "positions" not in row:
                raise DataError(f"{path}: entry {number} has no numbers and positions; it is no row of an ASE database")
            yield row


def _content(value: bytes, name: str, path: Path) -> Any:
    try:
        return json.loads(zlib.decompress(value), object_hook=_array)
    except (zlib.error, ValueError) as error:
        raise DataError(f"{path}: entry {name} is no compressed JSON ({error}); ASE databases in LMDB files (OMat24, "
                        "OMol25) are read, others often hold pickles, which can run code") from None


def _array(found: dict[str, Any]) -> Any:
    if set(found) != {"__ndarray__"}:
        return found
    shape, dtype, values = found["__ndarray__"]
    return np.array(values, dtype=dtype).reshape(shape)

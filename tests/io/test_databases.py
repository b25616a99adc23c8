"""ASE databases and LMDB files of the OMat24 and OMol25 kind."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from mlip.errors import DataError, StructureError
from mlip.io import frames
from mlip.io.dataset import iter_labelled, read_labelled
from mlip.io.labels import Keys
from mlip.units import from_voigt

lmdb = pytest.importorskip("lmdb")


def labelled_atoms(count: int = 5) -> list[Atoms]:
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        atoms = molecule("H2O") if i % 2 else bulk("Cu", cubic=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - i, forces=rng.normal(size=(len(atoms), 3)),
                                           stress=rng.normal(size=6) if i % 2 == 0 else None)
        found.append(atoms)
    return found


def row_of(atoms: Atoms, arrays: bool, **more: Any) -> dict[str, Any]:
    """Return a row as fairchem writes it: plain lists, or arrays in the manner of ASE."""
    def encoded(value: Any) -> Any:
        array = np.asarray(value)
        return {"__ndarray__": [array.shape, array.dtype.name, array.ravel().tolist()]} if arrays else array.tolist()

    results = {k: v if np.ndim(v) == 0 else encoded(v) for k, v in atoms.calc.results.items() if v is not None}
    row = {"numbers": encoded(atoms.numbers), "positions": encoded(atoms.positions), "pbc": encoded(atoms.pbc),
           "cell": encoded(atoms.cell.array), "unique_id": "0", "calculator": "unknown", "ctime": 1.0, **results}
    return {**row, **more}


def write_lmdb(path: Path, rows: Sequence[Any], deleted: Sequence[int] = (), nextid: bool = True) -> None:
    with lmdb.open(str(path), map_size=2**24, subdir=False) as environment, environment.begin(write=True) as txn:
        def put(key: str, value: Any) -> None:
            txn.put(key.encode(), zlib.compress(json.dumps(value).encode()))

        for i, row in enumerate(rows, 1):
            if i not in deleted:
                put(str(i), row)
        if nextid:
            put("nextid", len(rows) + 1)
        put("metadata", {"name": "test"})
        if deleted:
            put("deleted_ids", list(deleted))


def assert_labels(found: Sequence[Any], atoms: Sequence[Atoms]) -> None:
    assert len(found) == len(atoms)
    for entry, original in zip(found, atoms, strict=True):
        results = original.calc.results
        assert entry.energy == results["energy"]
        np.testing.assert_array_equal(entry.forces, results["forces"])
        np.testing.assert_array_equal(entry.structure.positions, original.positions)
        assert entry.structure.numbers.tolist() == original.numbers.tolist()
        assert entry.structure.pbc.tolist() == original.pbc.tolist()
        if original.pbc.any():
            np.testing.assert_array_equal(entry.stress, from_voigt(results["stress"]))
            np.testing.assert_array_equal(entry.structure.cell, original.cell.array)
        else:
            assert entry.stress is None


@pytest.mark.parametrize("arrays", [False, True])
def test_lmdb(arrays: bool, tmp_path: Path) -> None:
    atoms = labelled_atoms()
    write_lmdb(tmp_path / "data.aselmdb", [row_of(a, arrays) for a in atoms])
    assert_labels(read_labelled(tmp_path / "data.aselmdb"), atoms)


@pytest.mark.parametrize("nextid", [False, True])
def test_rows_that_were_deleted(nextid: bool, tmp_path: Path) -> None:
    atoms = labelled_atoms(12)  # more than nine: the keys are texts
    write_lmdb(tmp_path / "data.lmdb", [row_of(a, True) for a in atoms], deleted=(2, 7), nextid=nextid)
    assert_labels(read_labelled(tmp_path / "data.lmdb"), [a for i, a in enumerate(atoms, 1) if i not in (2, 7)])


def test_folders(tmp_path: Path) -> None:
    atoms = labelled_atoms(6)
    (tmp_path / "val" / "rattled").mkdir(parents=True)
    write_lmdb(tmp_path / "val" / "data0001.aselmdb", [row_of(a, True) for a in atoms[4:]])
    write_lmdb(tmp_path / "val" / "data0000.aselmdb", [row_of(a, False) for a in atoms[:4]])
    write_lmdb(tmp_path / "val" / "rattled" / "data.aselmdb", [row_of(a, False) for a in atoms[:1]])
    (tmp_path / "val" / "metadata.npz").touch()
    assert_labels(read_labelled(tmp_path / "val"), [*atoms, atoms[0]])
    (tmp_path / "folder").mkdir()
    write_lmdb(tmp_path / "folder" / "data.mdb", [row_of(a, True) for a in atoms])
    assert_labels(read_labelled(tmp_path / "folder"), atoms)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder without LMDB files"):
        read_labelled(tmp_path / "empty")


def test_charge_spin_and_group(tmp_path: Path) -> None:
    (water,) = labelled_atoms(2)[1:]
    write_lmdb(tmp_path / "a.aselmdb", [row_of(water, False, data={"charge": -1, "spin": 2, "config_type": "ions"}),
                                        row_of(water, False, key_value_pairs={"charge": 1.0}), row_of(water, False)])
    found = read_labelled(tmp_path / "a.aselmdb")
    assert [(e.structure.charge, e.structure.spin) for e in found] == [(-1, 2), (1, None), (None, None)]
    assert [e.config_type for e in found] == ["ions", "", ""]


def test_labels_among_the_data(tmp_path: Path) -> None:
    (water,) = labelled_atoms(2)[1:]
    forces = np.arange(9.0).reshape(3, 3)
    write_lmdb(tmp_path / "a.aselmdb", [row_of(water, False, data={"e_hf": -7.5, "f_hf": forces.tolist()})])
    (found,) = read_labelled(tmp_path / "a.aselmdb", Keys(energy="e_hf", forces="f_hf"))
    assert found.energy == -7.5
    np.testing.assert_array_equal(found.forces, forces)


@pytest.mark.parametrize(("content", "match"), [
    (pickle.dumps({"pos": [0]}), "pickles, which can run code"),
    (zlib.compress(pickle.dumps({"pos": [0]})), "pickles, which can run code"),
    (zlib.compress(b'{"pos": [0]}'), "no row of an ASE database"),
    (zlib.compress(b"[1, 2]"), "no row of an ASE database"),
])
def test_other_lmdb_files(content: bytes, match: str, tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=False) as environment, environment.begin(write=True) as txn:
        txn.put(b"1", content)
    with pytest.raises(DataError, match=match):
        read_labelled(tmp_path / "a.lmdb")


@pytest.mark.parametrize("name", ["data.db", "data.json"])
def test_ase_databases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PAGE", 3)
    atoms = labelled_atoms(8)
    with connect(tmp_path / name) as database:
        for i, one in enumerate(atoms):
            database.write(one, key_value_pairs={"config_type": f"kind{i}"}, data={"charge": i, "other": [1, 2]})
        del database[3]
    kept = [a for i, a in enumerate(atoms, 1) if i != 3]
    found = list(iter_labelled(tmp_path / name))
    assert_labels(found, kept)
    assert [e.config_type for e in found] == ["kind0", "kind1", *(f"kind{i}" for i in range(3, 8))]
    assert [e.structure.charge for e in found] == [0, 1, 3, 4, 5, 6, 7]


def test_errors_stay_typed(tmp_path: Path) -> None:
    (water,) = labelled_atoms(2)[1:]
    write_lmdb(tmp_path / "a.aselmdb", [row_of(water, False), row_of(water, False, data={"charge": 0.5})])
    with pytest.raises(DataError, match=r"structure 1 of a.aselmdb: charge must be a whole number"):
        read_labelled(tmp_path / "a.aselmdb")
    assert not issubclass(DataError, StructureError)

"""Reading labelled structures."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mlip.errors import DataError
from mlip.io.dataset import isolated_energies, read_labelled

WATER = """3
Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-76.25 pbc="T T F"
O 0 0 0 0.1 0.2 0.3
H 0.9 0 0 -0.1 0 0
H 0 0.9 0 0 -0.2 -0.3
"""
ATOMS = """1
Properties=species:S:1:pos:R:3 REF_energy=-13.5
H 0 0 0
1
Properties=species:S:1:pos:R:3 REF_energy=-2041.25
O 0 0 0
"""


def frame(comment: str, rows: str = "H 0 0 0 0 0 0\nH 0 0 1 0 0 0") -> str:
    return f"{len(rows.splitlines())}\n{comment}\n{rows}\n"


def text_file(folder: Path, text: str, name: str = "data.xyz") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_energy_forces_cell(tmp_path: Path) -> None:
    (entry,) = read_labelled(text_file(tmp_path, WATER))
    assert entry.energy == -76.25
    np.testing.assert_array_equal(entry.forces, [[0.1, 0.2, 0.3], [-0.1, 0, 0], [0, -0.2, -0.3]])
    assert entry.structure.numbers.tolist() == [8, 1, 1]
    assert entry.structure.pbc.tolist() == [True, True, False]
    assert entry.structure.cell.tolist() == (9.0 * np.eye(3)).tolist()
    assert entry.structure.positions[1].tolist() == [0.9, 0, 0]


@pytest.mark.parametrize("name", ["data.xyz", "data.extxyz", "data.xyz.gz", "data.extxyz.gz"])
def test_names_of_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress((WATER * 3).encode()) if name.endswith("gz") else (WATER * 3).encode())
    for argument in (path, str(path)):
        assert [e.energy for e in read_labelled(argument)] == [-76.25] * 3


@pytest.mark.parametrize("name", ["data.traj", "data.json", "data.traj.gz", "data.xyz"])
def test_results_of_calculators(name: str, tmp_path: Path) -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    atoms.calc = SinglePointCalculator(atoms, energy=-31.5, forces=[[0, 0, 1.0], [0, 0, -1.0]])
    path = tmp_path / name.removesuffix(".gz")
    write(path, [atoms, atoms])
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    found = read_labelled(tmp_path / name)
    assert [e.energy for e in found] == [-31.5, -31.5]
    assert found[1].forces.tolist() == [[0, 0, 1.0], [0, 0, -1.0]]


def test_plain_keys_and_which_come_first(tmp_path: Path) -> None:
    plain = frame("Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5", "H 0 0 0 1 2 3\nH 0 0 1 4 5 6")
    (entry,) = read_labelled(text_file(tmp_path, plain))
    assert entry.energy == -1.5
    assert entry.forces[1].tolist() == [4, 5, 6]
    both = frame("Properties=species:S:1:pos:R:3:forces:R:3:REF_forces:R:3 energy=-1.5 REF_energy=0.0",
                 "H 0 0 0 1 2 3 7 7 7\nH 0 0 1 4 5 6 8 8 8")
    (entry,) = read_labelled(text_file(tmp_path, both))
    assert entry.energy == 0.0  # zero is an energy too
    assert entry.forces[1].tolist() == [8, 8, 8]


@pytest.mark.parametrize("comment", ["Properties=species:S:1:pos:R:3:forces:R:3 energy=-9 REF_energy=-1",
                                     "Properties=species:S:1:pos:R:3:REF_forces:R:3 energy=-9"])
def test_labels_of_two_methods_are_not_mixed(comment: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no forces under"):
        read_labelled(text_file(tmp_path, frame(comment)))


@pytest.mark.parametrize(("text", "match"), [
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:3"), "structure 0 of data.xyz has no energy"),
    (WATER + frame("Properties=species:S:1:pos:R:3 REF_energy=1.0", "H 0 0 0\nH 0 0 1"),
     "structure 1 of data.xyz .* no forces under REF_forces"),
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=nan"), "NaN or infinite"),
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=1", "H 0 0 0 0 0 nan\nH 0 0 1 0 0 0"), "NaN or"),
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=inf"), "NaN or infinite"),
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=low"), "no numbers"),
    (frame('Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy="1 2 3"'), "must be one number"),
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:1 REF_energy=1", "H 0 0 0 1\nH 0 0 1 2"), "shape"),
    (frame("Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=1", "Qq 0 0 0 0 0 0\nH 0 0 1 0 0 0"), "Qq"),
    ("3\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=1.0\nH 0 0 0 0 0 0\n", "cannot be read"),
    ("once upon a time\n", "cannot be read"), ("", "no structures"),
])
def test_refused_files(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        read_labelled(text_file(tmp_path, text))


def test_damaged_archives_and_no_files(tmp_path: Path) -> None:
    whole = gzip.compress((WATER * 50).encode())
    for name, content in (("cut.xyz.gz", whole[:-20]), ("junk.xyz.gz", b"junk"), ("no-ending.gz", whole)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_labelled(tmp_path / name)
    for missing in (tmp_path / "absent.xyz", tmp_path):
        with pytest.raises(DataError, match="there is no file"):
            read_labelled(missing)


class TestIsolatedAtoms:
    def test_forces_are_zero(self, tmp_path: Path) -> None:
        found = read_labelled(text_file(tmp_path, ATOMS))
        assert [e.forces.tolist() for e in found] == [[[0, 0, 0]]] * 2

    def test_energies(self, tmp_path: Path) -> None:
        assert isolated_energies(text_file(tmp_path, ATOMS)) == {"H": -13.5, "O": -2041.25}

    def test_more_than_one_atom(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="3 atoms"):
            isolated_energies(text_file(tmp_path, ATOMS + WATER))


def test_public_data(shared_dir: Path) -> None:
    data = shared_dir / "data"
    found = read_labelled(data / "ethanol_pbe" / "train_methanol.xyz")
    assert {tuple(sorted(set(e.structure.numbers.tolist()))) for e in found} == {(1, 6, 8)}
    assert all(e.forces.shape == (len(e.structure), 3) for e in found)
    assert set(isolated_energies(data / "ethanol_pbe" / "isolated_atoms.xyz")) >= {"H", "C", "O"}

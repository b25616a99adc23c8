"""Trajectories in every format hold the same; what cannot be right is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from mlip.analysis import trajectory
from mlip.analysis.trajectory import read_motion
from mlip.errors import DataError, TopologyError

from .conftest import motion, walk

mdtraj = pytest.importorskip("mdtraj")


def converted(source: Path, suffix: str) -> Path:
    """Write the trajectory in another format of mdtraj; the topology beside serves all."""
    if suffix == ".h5":
        pytest.importorskip("tables")
    target = source.with_suffix(suffix)
    read_motion(source).frames.save(str(target))
    return target


@pytest.mark.parametrize("suffix", [".xyz", ".dcd", ".xtc", ".h5"])
def test_all_formats(argon: Path, suffix: str) -> None:
    path = argon if suffix == ".xyz" else converted(argon, suffix)
    found, frames = read_motion(path), read(argon, ":")
    assert found.numbers.tolist() == [18] * 20
    assert (found.count, found.stride, found.periodic) == (30, 1, (True,) * 3)
    assert found.timed == (suffix != ".dcd")
    np.testing.assert_allclose(found.time, np.arange(30) * (0.5 if found.timed else 1.0), atol=1e-6)
    np.testing.assert_allclose(found.cells, np.broadcast_to(frames[0].cell.array, (30, 3, 3)), atol=1e-4)
    precision = 0.006 if suffix == ".xtc" else 1e-4  # XTC rounds to 0.001 nm
    for k in (0, 29):
        np.testing.assert_allclose(10 * found.frames.xyz[k], frames[k].positions, atol=precision)


@pytest.mark.parametrize("suffix", [".xyz", ".dcd", ".xtc", ".h5"])
def test_long_files_are_thinned(argon: Path, suffix: str, monkeypatch) -> None:
    path = argon if suffix == ".xyz" else converted(argon, suffix)
    monkeypatch.setattr(trajectory, "VALUES", 160)
    found = read_motion(path)
    assert found.count == 30
    assert found.stride == 4
    assert found.frames.n_frames == 8
    np.testing.assert_allclose(np.diff(found.time), 2.0 if found.timed else 4.0, atol=1e-6)
    np.testing.assert_allclose(10 * found.frames.xyz[7], read(argon, 28).positions, atol=0.006)


@pytest.mark.parametrize("kind", ["left-handed", "turned"])
def test_cells_in_any_orientation(tmp_path: Path, kind: str) -> None:
    """Distances, volume and the sign of torsions stay as they are."""
    peroxide = molecule("H2O2")
    peroxide.set_dihedral(2, 0, 1, 3, 70.0, indices=[3])
    peroxide.set_cell(np.array([[9.0, 0.0, 0.0], [2.0, 0.0, 8.0], [1.0, 7.0, 0.5]]) if kind == "left-handed"
                      else np.array([[0.0, 9.0, 1.0], [0.0, 0.0, 8.0], [7.0, 2.0, 0.0]]))
    peroxide.pbc = True
    assert np.sign(np.linalg.det(peroxide.cell.array)) == (-1 if kind == "left-handed" else 1)
    write(tmp_path / "one.xyz", peroxide, format="extxyz")
    found = read_motion(tmp_path / "one.xyz")
    angle = mdtraj.compute_dihedrals(found.frames, [[2, 0, 1, 3]], periodic=True)[0, 0]
    assert np.degrees(angle) == pytest.approx(70.0, abs=0.01)
    assert 1e3 * found.frames.unitcell_volumes[0] == pytest.approx(peroxide.get_volume(), rel=1e-5)
    assert np.allclose(np.triu(found.cells[0], 1), 0, atol=1e-5)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    found_distances = 10 * mdtraj.compute_distances(found.frames, pairs)[0]
    np.testing.assert_allclose(found_distances, [peroxide.get_distance(i, j, mic=True) for i, j in pairs], atol=1e-4)


def test_a_slab_keeps_its_periodic_directions(tmp_path: Path) -> None:
    slab = bulk("Cu", cubic=True).repeat((3, 3, 1))
    slab.pbc = (True, True, False)
    slab.cell[2] = 0
    write(tmp_path / "slab.xyz", slab, format="extxyz")
    found = read_motion(tmp_path / "slab.xyz")
    assert found.periodic == (True, True, False)
    np.testing.assert_allclose(found.cells[0, :2, :2], slab.cell.array[:2, :2], atol=1e-4)
    assert abs(found.cells[0, 2, 2]) > 100
    distances = 10 * mdtraj.compute_distances(found.frames, [[0, k] for k in range(1, 36)])[0]
    np.testing.assert_allclose(distances, slab.get_distances(0, range(1, 36), mic=True), atol=1e-3)


def refused(path: Path, error: type[Exception], match: str, topology: Path | None = None) -> None:
    with pytest.raises(error, match=match):
        read_motion(path, topology)


def test_files_that_are_none(tmp_path: Path, argon: Path) -> None:
    refused(tmp_path / "no.xyz", DataError, "there is no trajectory")
    for suffix in (".dcd", ".xtc"):
        bad = argon.with_name(f"run{suffix}")
        bad.write_bytes(b"hello" * 100)
        refused(bad, DataError, f"cut off or damaged, or no {suffix} file")
    (tmp_path / "empty.xyz").write_text("")
    refused(tmp_path / "empty.xyz", DataError, "no frames")
    refused(argon, TopologyError, "there is no topology", tmp_path / "no.pdb")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mdtraj leaves the file open
def test_a_topology_that_is_none(tmp_path: Path, argon: Path) -> None:
    (tmp_path / "bad.pdb").write_text("nothing\n")
    refused(argon, TopologyError, r"bad\.pdb", tmp_path / "bad.pdb")


@pytest.mark.parametrize("suffix", [".xyz", ".dcd", ".xtc"])
@pytest.mark.parametrize("share", [0.51, 0.98])
def test_files_that_are_cut(argon: Path, suffix: str, share: float) -> None:
    path = argon if suffix == ".xyz" else converted(argon, suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, DataError, "cut|damaged|cannot be read")


def test_topologies_of_others(tmp_path: Path, argon: Path) -> None:
    other = tmp_path / "other.pdb"
    write(other, Atoms("Ar19", positions=np.arange(57).reshape(19, 3)), format="proteindatabank")
    for path in (argon, converted(argon, ".dcd"), converted(argon, ".xtc")):
        refused(path, TopologyError, "20 atoms and the topology .*other.pdb has 19", other)
    write(other, Atoms("Kr20", positions=np.arange(60).reshape(20, 3)), format="proteindatabank")
    refused(argon, TopologyError, "different elements", other)
    dcd = converted(argon, ".dcd")
    argon.with_suffix(".topology.pdb").unlink()
    refused(dcd, TopologyError, r"holds no elements.*run\.topology\.pdb")


def test_frames_of_different_atoms_and_bad_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mixed.xyz"
    write(path, [molecule("H2O"), molecule("CO2")], format="extxyz")
    refused(path, DataError, "frame 1 holds other atoms")
    path.write_text("1\n\nAr 0 0 0\n1\n\nAr 0 nan 0\n")
    refused(path, DataError, "no number: frame 1, atom 0")
    path.write_text('1\nLattice="1 0 0 2 0 0 0 0 1" pbc="T T T"\nAr 0 0 0\n')
    refused(path, DataError, "without volume")


def test_one_frame_of_dcd(tmp_path: Path) -> None:
    one = motion([18, 10], walk(1, 2, 1.0))
    one.frames.save(str(tmp_path / "a.dcd"))
    one.frames.save(str(tmp_path / "a.topology.pdb"))
    found = read_motion(tmp_path / "a.dcd")
    assert (found.count, found.timed, found.cells) == (1, False, None)
    assert found.numbers.tolist() == [18, 10]

"""Trajectories in every format hold what the frames of extended XYZ hold, for those who read them with mdtraj."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase.cell import Cell
from ase.io import read

from mlip.analysis.trajectory import read_motion
from mlip.errors import MissingDependencyError
from mlip.simulation import Plan, run_ase, run_openmm

mdtraj = pytest.importorskip("mdtraj")
NEAR = {".xyz": 1e-4, ".dcd": 1e-5, ".xtc": 0.0051, ".h5": 1e-5}  # A
TURNED = ("triclinic", "left_handed")


def distances(positions: np.ndarray) -> np.ndarray:
    """Return [F, N, N]."""
    return np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)


@pytest.mark.parametrize("kind", ["molecule", "cubic", "slab", "wire", *TURNED])
@pytest.mark.parametrize("ending", [".dcd", ".xtc", ".h5"])
def test_mdtraj_reads_them(binding, structures, tmp_path, capfd, kind, ending) -> None:
    if ending == ".h5":
        pytest.importorskip("tables")
    start, plan = structures[kind], Plan(steps=5, every=2, timestep=2.0, temperature=1000.0)
    for name in ("same.xyz", f"run{ending}"):
        run_ase(start, binding, plan, trajectory=tmp_path / name)
    frames = read(tmp_path / "same.xyz", ":")
    top = {} if ending == ".h5" else {"top": str(tmp_path / "run.topology.pdb")}
    found = mdtraj.load(str(tmp_path / f"run{ending}"), **top)
    assert found.n_frames == 3
    assert [a.element.atomic_number for a in found.topology.atoms] == start.numbers.tolist()
    there, here = 10 * found.xyz.astype(float), np.stack([frame.positions for frame in frames])
    if kind in TURNED:
        there, here = distances(there), distances(here)
    np.testing.assert_allclose(there, here, atol=2 * NEAR[ending] if kind in TURNED else NEAR[ending])
    if ending != ".dcd":  # mdtraj leaves the time of DCD files out
        np.testing.assert_allclose(found.time, [0, 0.004, 0.008], atol=1e-7)
    if start.pbc.any() and start.cell.rank == 3:
        order = [1, 0, 2] if kind == "left_handed" else [0, 1, 2]
        expected = Cell(start.cell[order]).cellpar()
        np.testing.assert_allclose(10 * found.unitcell_lengths, np.tile(expected[:3], (3, 1)), rtol=1e-5)
        np.testing.assert_allclose(found.unitcell_angles, np.tile(expected[3:], (3, 1)), atol=1e-3)
    else:
        assert found.unitcell_lengths is None
    assert sorted(p.suffix for p in tmp_path.glob("run.*")) == sorted([ending, ".pdb", ".xyz", ".csv", ".npz"])


@pytest.mark.parametrize("ending", [".dcd", ".xtc"])
def test_images_of_atoms_are_kept(binding, structures, tmp_path, ending) -> None:
    """Turned frames have the same neighbours across the faces of the box."""
    start = structures["left_handed"]
    run_ase(start, binding, Plan(steps=1, every=1), trajectory=tmp_path / f"run{ending}")
    found = mdtraj.load(str(tmp_path / f"run{ending}"), top=str(tmp_path / "run.topology.pdb"))
    for z in ([0, 1], [0, 2], [1, 2]):
        shifts = np.stack(np.meshgrid(*[range(-2, 3)] * 3), axis=-1).reshape(-1, 3)
        nearest = [np.linalg.norm(r[z[1]] - r[z[0]] + shifts @ h, axis=1).min() for r, h in
                   ((10 * found.xyz[0].astype(float), 10 * found.unitcell_vectors[0].astype(float)),
                    (start.positions, start.cell.array))]
        assert nearest[0] == pytest.approx(nearest[1], abs=0.02)


@pytest.mark.parametrize("ending", list(NEAR))
@pytest.mark.parametrize("engine", [run_ase, run_openmm])
def test_boxes_that_change(binding, moving_copper, tmp_path, monkeypatch, capfd, engine, ending) -> None:
    """The analysis finds in each format what the log says."""
    pytest.importorskip("openmm")
    if ending == ".h5":
        pytest.importorskip("tables")
    for name in ("ase_engine", "openmm_engine"):
        monkeypatch.setattr(f"mlip.simulation.{name}.EVERY", 1)
    path, plan = tmp_path / f"run{ending}", Plan(steps=6, every=2, ensemble="npt", pressure=1e5)
    record = engine(moving_copper, binding, plan, trajectory=path)
    volumes = np.genfromtxt(tmp_path / "run.log.csv", delimiter=",", names=True)["volume_a3"]
    assert len(set(volumes)) > 2
    motion = read_motion(path)
    assert motion.count == 4
    np.testing.assert_allclose(abs(np.linalg.det(motion.cells)), volumes, rtol=1e-5)
    np.testing.assert_allclose(10 * motion.frames.xyz[-1], record.final.positions, atol=NEAR[ending])


@pytest.mark.parametrize(("ending", "missing"), [(".xtc", "mdtraj"), (".h5", "tables")])
def test_what_a_format_needs(binding, copper, tmp_path, monkeypatch, ending, missing) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=rf"'{missing}'.*mlip-md\[openmm\]"):
        run_ase(copper, binding, Plan(steps=1), trajectory=tmp_path / f"run{ending}")
    assert list(tmp_path.iterdir()) == []

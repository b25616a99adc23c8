"""What a run leaves behind can be read by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read

from mlip.errors import OptionError
from mlip.simulation import Plan, Record, run_ase


def test_ase_reads_the_trajectory(binding, copper, tmp_path) -> None:
    record = run_ase(copper, binding, Plan(steps=6, timestep=2.0, every=2))
    path = record.write(tmp_path / "run.xyz")
    assert path == tmp_path / "run.xyz"
    frames = read(path, ":")
    assert len(frames) == len(record.frames) == 4
    for found, kept in zip(frames, record.frames, strict=True):
        assert found.numbers.tolist() == kept.numbers.tolist()
        np.testing.assert_allclose(found.positions, kept.positions, atol=1e-7)
        np.testing.assert_allclose(found.cell.array, copper.cell.array, atol=1e-7)
        assert found.pbc.all()
    assert read(path.with_suffix(".pdb")).numbers.tolist() == copper.numbers.tolist()


@pytest.mark.parametrize("kind", ["molecule", "triclinic", "left_handed"])
def test_mdtraj_reads_the_trajectory(binding, structures, tmp_path, kind) -> None:
    mdtraj = pytest.importorskip("mdtraj")
    record = run_ase(structures[kind], binding, Plan(steps=2, every=1))
    path = record.write(tmp_path / "run.xyz")
    trajectory = mdtraj.load(str(path), top=str(path.with_suffix(".pdb")))
    assert trajectory.n_frames == 3
    assert [a.element.atomic_number for a in trajectory.topology.atoms] == structures[kind].numbers.tolist()
    np.testing.assert_allclose(trajectory.xyz[-1] * 10, record.frames[-1].positions, atol=1e-4)


@pytest.mark.parametrize(("name", "text"), [("run.dcd", r"\.xyz"), ("missing/run.xyz", "no folder"), ("run", r"\.xyz")])
def test_bad_paths(name, text, tmp_path) -> None:
    with pytest.raises(OptionError, match=text):
        a_record([0.0]).write(tmp_path / name)


def a_record(total: list[float]) -> Record:
    values = np.array(total)
    atoms = molecule("CO")
    return Record(np.arange(len(values)) * 100.0, values, np.zeros_like(values), np.zeros_like(values),
                  [atoms] * len(values), 1.0, atoms)


def test_drift_and_fluctuation() -> None:
    """Two atoms gaining 0.002 eV in 0.1 ps: 0.01 eV/atom/ps."""
    record = a_record([1.0, 1.002, 1.004])
    assert record.drift() == pytest.approx(10.0)
    assert record.fluctuation() == pytest.approx(np.std([0, 2, 4]) / 2)
    assert a_record([1.0]).drift() == 0.0
    assert a_record([5.0, 5.0]).fluctuation() == 0.0


def test_an_atom_alone(binding, tmp_path: Path) -> None:
    record = run_ase(Atoms("C"), binding, Plan(steps=2, every=1))
    assert record.kinetic[0] == pytest.approx(0.0, abs=1e-20)
    assert len(read(record.write(tmp_path / "atom.extxyz"), ":")) == 3

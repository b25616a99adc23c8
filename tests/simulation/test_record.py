"""What a run leaves behind can be read by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read

from mlip.checkpoints import Potential
from mlip.errors import NonFiniteError, OptionError
from mlip.simulation import Plan, Record, run_ase, run_openmm
from mlip.simulation.record import outputs_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the trajectory goes."""
    return tmp_path / "run.xyz"


def test_ase_reads_the_trajectory(binding, copper, path) -> None:
    copper.info.update(charge=0, comment="not for every frame")
    record = run_ase(copper, binding, Plan(steps=6, timestep=2.0, every=2), trajectory=path)
    frames = read(path, ":")
    assert len(frames) == 4
    assert set(frames[0].info) == {"charge", "time", "kinetic", "temperature"}
    for i, frame in enumerate(frames):
        assert frame.numbers.tolist() == copper.numbers.tolist()
        np.testing.assert_allclose(frame.cell.array, copper.cell.array, atol=1e-7)
        assert frame.pbc.all()
        assert frame.get_potential_energy() == pytest.approx(record.potential[i], abs=1e-7)
        assert binding.predict(frame).energy == pytest.approx(record.potential[i], abs=1e-6)
        for name in ("time", "kinetic", "temperature"):
            assert frame.info[name] == pytest.approx(getattr(record, name)[i], abs=1e-6)
    assert read(path.with_suffix(".topology.pdb")).numbers.tolist() == copper.numbers.tolist()
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.checkpoint.npz", "run.final.xyz", "run.log.csv",
                                                               "run.topology.pdb", "run.xyz"]


@pytest.mark.parametrize("kind", ["molecule", "triclinic", "left_handed", "slab", "wire"])
def test_mdtraj_reads_the_trajectory(binding, structures, path, kind) -> None:
    mdtraj = pytest.importorskip("mdtraj")
    record = run_ase(structures[kind], binding, Plan(steps=2, every=1), trajectory=path)
    trajectory = mdtraj.load(str(path), top=str(path.with_suffix(".topology.pdb")))
    assert trajectory.n_frames == 3
    assert [a.element.atomic_number for a in trajectory.topology.atoms] == structures[kind].numbers.tolist()
    np.testing.assert_allclose(trajectory.xyz[-1] * 10, record.final.positions, atol=1e-4)


@pytest.mark.parametrize("engine", [run_ase, run_openmm])
def test_a_run_goes_on(binding, moving_copper, path, engine) -> None:
    """Two runs of three steps are one of six."""
    pytest.importorskip("openmm")
    moving_copper.set_masses(np.linspace(50, 70, len(moving_copper)))
    half = engine(moving_copper, binding, Plan(steps=3, every=2), trajectory=path)
    final = read(path.with_suffix(".final.xyz"))
    assert final.info["time"] == 1.5
    assert final.get_potential_energy() == pytest.approx(binding.predict(half.final).energy, abs=1e-6)
    assert final.info["kinetic"] == pytest.approx(final.get_kinetic_energy(), abs=1e-6)
    np.testing.assert_allclose(final.get_masses(), moving_copper.get_masses())
    rest, whole = (engine(start, binding, Plan(steps=n)).final for start, n in ((final, 3), (moving_copper, 6)))
    np.testing.assert_allclose(rest.positions, whole.positions, atol=1e-6)
    np.testing.assert_allclose(rest.get_momenta(), whole.get_momenta(), atol=1e-4)


def test_constraints_go_on(binding, copper, path) -> None:
    copper.set_constraint(FixAtoms([0]))
    run_ase(copper, binding, Plan(steps=1), trajectory=path)
    assert read(path.with_suffix(".final.xyz")).constraints[0].index.tolist() == [0]


@pytest.mark.parametrize("engine", [run_ase, run_openmm])
def test_a_failed_run_leaves_its_frames(binding, copper, path, engine, monkeypatch) -> None:
    """What was there before does not stay beside them."""
    pytest.importorskip("openmm")
    engine(copper, binding, Plan(steps=8, every=1), trajectory=path)
    evaluate, calls = Potential.evaluate_batch, []

    def failing(self, *arguments, **options):
        calls.append(1)
        if len(calls) > 6:
            raise NonFiniteError("the model returned NaN")
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(Potential, "evaluate_batch", failing)
    with pytest.raises(NonFiniteError):
        engine(copper, binding, Plan(steps=8, every=1), trajectory=path)
    assert 3 <= len(read(path, ":")) <= 6
    assert not path.with_suffix(".final.xyz").exists()


@pytest.mark.parametrize(("name", "text"), [("run.trr", r"\.xyz"), ("missing/run.xyz", "no folder"), ("run", r"\.xyz")])
def test_bad_paths(binding, copper, name, text, tmp_path) -> None:
    with pytest.raises(OptionError, match=text):
        run_ase(copper, binding, Plan(steps=1), trajectory=tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_not_overwritten(path, tmp_path) -> None:
    for name in ("run.xyz", "run.topology.pdb", "run.final.xyz"):
        source = tmp_path / name
        source.write_text("precious")
        with pytest.raises(OptionError, match=rf"{name}: it is an input"):
            outputs_of(path, [source])
        source.unlink()
    assert outputs_of(path, [tmp_path / "run.pdb", tmp_path / "absent.xyz"])[0] == path


def a_record(total: list[float]) -> Record:
    values = np.array(total)
    atoms = molecule("CO")
    return Record(np.arange(len(values)) * 100.0, values, np.zeros_like(values), np.zeros_like(values),
                  1.0, atoms)


def test_drift_and_fluctuation() -> None:
    """Two atoms gaining 0.002 eV in 0.1 ps: 0.01 eV/atom/ps."""
    record = a_record([1.0, 1.002, 1.004])
    assert record.drift() == pytest.approx(10.0)
    assert record.fluctuation() == pytest.approx(np.std([0, 2, 4]) / 2)
    assert a_record([1.0]).drift() == 0.0
    assert a_record([5.0, 5.0]).fluctuation() == 0.0


def test_an_atom_alone(binding, tmp_path: Path) -> None:
    record = run_ase(Atoms("C"), binding, Plan(steps=2, every=1), trajectory=tmp_path / "atom.extxyz")
    assert record.kinetic[0] == pytest.approx(0.0, abs=1e-20)
    assert len(read(tmp_path / "atom.extxyz", ":")) == 3

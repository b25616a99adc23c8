"""Dynamics in ASE and in OpenMM: the same start, the same path, conserved energy, the right temperature."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read

import mlip
from mlip.errors import CloseContactError, MLIPError, NonFiniteError, OptionError, StructureError
from mlip.simulation import Plan, run_ase, run_openmm, with_velocities

pytest.importorskip("openmm")
ENGINES = {"ase": run_ase, "openmm": lambda *args, **options: run_openmm(*args, platform="Reference", **options)}
both_engines = pytest.mark.parametrize("engine", list(ENGINES))


def test_both_engines_take_the_same_path(binding, structures, tmp_path) -> None:
    for name in ("molecule", "cubic"):
        start = structures[name]
        start.set_masses(start.get_masses() * np.linspace(1, 2, len(start)))  # isotopes
        start = with_velocities(start, 300, seed=3)
        plan = Plan(steps=20, timestep=0.5, every=5)
        a, o = (ENGINES[e](start, binding, plan, trajectory=tmp_path / f"{e}.xyz") for e in ("ase", "openmm"))
        assert a.potential[0] == pytest.approx(binding.predict(start).energy, abs=1e-9)
        for field in ("time", "potential", "kinetic", "total", "temperature"):
            np.testing.assert_allclose(getattr(o, field), getattr(a, field), rtol=1e-6, atol=1e-7, err_msg=field)
        frames = {e: read(tmp_path / f"{e}.xyz", ":") for e in ENGINES}
        for first, second in zip(frames["ase"], frames["openmm"], strict=True):
            np.testing.assert_allclose(second.positions, first.positions, atol=1e-7)
        np.testing.assert_allclose(o.final.get_momenta(), a.final.get_momenta(), atol=1e-6)
        np.testing.assert_allclose(o.final.positions, frames["openmm"][-1].positions, atol=1e-8)


def test_noise_on_the_centre_of_mass_is_no_temperature(binding, copper) -> None:
    plan = Plan(steps=3, timestep=2.0, ensemble="nvt", temperature=400.0, friction=100.0, every=3)
    record = ENGINES["openmm"](copper, binding, plan)
    momentum, mass = record.final.get_momenta().sum(axis=0), record.final.get_masses().sum()
    moving = float(momentum @ momentum / mass / 2)
    assert moving > 1e-3
    assert record.kinetic[-1] == pytest.approx(record.final.get_kinetic_energy() - moving, rel=1e-6)


@both_engines
def test_energy_is_conserved_to_second_order(binding, moving_copper, engine) -> None:
    """The error of velocity Verlet is quadratic in the time step, if forces are the derivative of the energy."""
    spreads = []
    for timestep in (4.0, 2.0):
        steps = round(160 / timestep)
        record = ENGINES[engine](moving_copper, binding, Plan(steps=steps, timestep=timestep, every=1))
        spreads.append(np.ptp(record.total))
        assert spreads[-1] < 0.1 * np.ptp(record.potential)
    assert 3.0 < spreads[0] / spreads[1] < 5.0


@both_engines
def test_thermostat_reaches_its_temperature(binding, copper, engine) -> None:
    start = with_velocities(copper.repeat((2, 2, 2)), 1e-3, seed=0)
    plan = Plan(steps=120, timestep=4.0, ensemble="nvt", temperature=400.0, friction=20.0, every=2, seed=5)
    record = ENGINES[engine](start, binding, plan)
    assert record.temperature[0] < 0.01
    half = record.temperature[len(record.temperature) // 2:]
    assert half.mean() == pytest.approx(400, rel=0.3)
    moved = record.final.get_center_of_mass() - start.get_center_of_mass()
    assert np.abs(moved).max() < (1e-9 if engine == "ase" else 0.02)  # OpenMM takes the drift away after each step
    assert not record.final.constraints


@both_engines
def test_seed_decides_the_path(binding, copper, engine) -> None:
    def positions(seed: int) -> np.ndarray:
        plan = Plan(steps=5, ensemble="nvt", friction=10.0, every=5, seed=seed)
        return ENGINES[engine](copper, binding, plan).final.positions

    assert np.array_equal(positions(1), positions(1))
    assert not np.array_equal(positions(1), positions(2))


def test_velocities(copper) -> None:
    crystal = copper.repeat((5, 5, 5))
    hot = with_velocities(crystal, 500.0, seed=0)
    assert hot.get_temperature() == pytest.approx(500, rel=0.1)
    assert np.abs(hot.get_momenta().sum(axis=0)).max() < 1e-9
    assert not crystal.has("momenta")
    assert np.array_equal(hot.get_momenta(), with_velocities(crystal, 500.0, seed=0).get_momenta())
    crystal.set_constraint(FixAtoms([0]))
    assert not with_velocities(crystal, 500.0, seed=0).get_momenta()[0].any()


@both_engines
def test_given_momenta_are_kept(binding, engine) -> None:
    flying = with_velocities(molecule("CH3OH"), 100.0, seed=0)
    flying.set_velocities(flying.get_velocities() + np.array([0.01, 0, 0]))
    record = ENGINES[engine](flying, binding, Plan(steps=3, every=1))
    assert record.kinetic[0] == pytest.approx(flying.get_kinetic_energy(), rel=1e-6)
    np.testing.assert_allclose(record.final.get_momenta().sum(axis=0), flying.get_momenta().sum(axis=0), atol=1e-6)


@both_engines
def test_momenta_of_zero_are_none(binding, copper, engine) -> None:
    """Files written by other programs often hold a column of zeros."""
    expected = ENGINES[engine](copper, binding, Plan(steps=1, every=1, temperature=300))
    copper.set_momenta(np.zeros((len(copper), 3)))
    record = ENGINES[engine](copper, binding, Plan(steps=1, every=1, temperature=300))
    assert record.temperature[0] == expected.temperature[0] > 30
    assert ENGINES[engine](copper, binding, Plan(steps=1, every=1, temperature=0)).temperature[0] < 1e-20


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_ase_keeps_constraints(binding, copper, ensemble) -> None:
    copper.set_constraint(FixAtoms([0]))
    record = run_ase(copper, binding, Plan(steps=5, ensemble=ensemble, every=5))
    assert np.array_equal(record.final.positions[0], copper.positions[0])
    assert not np.allclose(record.final.positions[1], copper.positions[1])
    assert len(record.final.constraints) == 1
    free = 3 * (len(copper) - 1)
    assert record.temperature[-1] == pytest.approx(2 * record.kinetic[-1] / (free * 8.617333262e-5))


def test_openmm_refuses_what_it_cannot_do(binding, copper, structures) -> None:
    copper.set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match="constraint"):
        run_openmm(copper, binding, Plan(steps=1))
    with pytest.raises(StructureError, match="all directions or none"):
        run_openmm(structures["slab"], binding, Plan(steps=1))
    with pytest.raises(OptionError, match="Reference"):
        run_openmm(structures["molecule"], binding, Plan(steps=1), platform="Abacus")


@both_engines
def test_head_is_read_from_info(engine) -> None:
    potential = mlip.create("mace", ["H", "C", "O"], heads=("a", "b"), channels=4, edge_lmax=1, correlation=1,
                            radial_mlp=(8,), cutoff=3.0, dtype="float64")
    potential.model.atomic_energies[1].add_(1.0)
    atoms = molecule("CH3OH")
    found = []
    for head in ("a", "b"):
        atoms.info["head"] = head
        found.append(ENGINES[engine](atoms, potential, Plan(steps=1)).potential[0])
        assert found[-1] == pytest.approx(potential.predict(atoms).energy)
    assert abs(found[0] - found[1]) > 1


@both_engines
def test_nothing_to_move(binding, engine) -> None:
    with pytest.raises(StructureError, match="no atoms"):
        ENGINES[engine](Atoms(), binding, Plan(steps=1))


def test_openmm_keeps_the_kind_of_an_error(binding, monkeypatch) -> None:
    """OpenMM hands on texts; only what speaks of NaN is a NonFiniteError."""
    import openmm

    together = Atoms("CO", [[0, 0, 0], [0, 0, 0]])
    text = r"^OpenMM stopped after step 0 \(0 fs\): atoms 0 \(C\) and 1 \(O\) are 0\.0000 A apart"
    with pytest.raises(CloseContactError, match=text):
        run_openmm(together, binding, Plan(steps=1), platform="Reference")

    def failing(text: str) -> None:
        def step(self: object, steps: int) -> None:
            raise openmm.OpenMMException(text)

        monkeypatch.setattr(openmm.VerletIntegrator, "step", step)
        run_openmm(Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]), binding, Plan(steps=1), platform="Reference")

    with pytest.raises(NonFiniteError, match=r"step 0 \(0 fs\): Particle coordinate is NaN.*0\.5 fs"):
        failing("Particle coordinate is NaN.  For more information, see https://openmm.org")
    with pytest.raises(openmm.OpenMMException, match=r"^Error in nanobots$"):
        failing("Error in nanobots")


@both_engines
def test_explosion_is_a_typed_error(binding, copper, engine) -> None:
    copper.positions[1] = copper.positions[0] + [0.05, 0, 0]
    with pytest.raises(MLIPError):
        ENGINES[engine](copper, binding, Plan(steps=50, timestep=1e7))


def test_times(binding, copper) -> None:
    record = run_ase(copper, binding, Plan(steps=4, timestep=2.0, every=1, temperature=600))
    assert record.time.tolist() == [0, 2, 4, 6, 8]
    assert record.steps_per_second > 0


@both_engines
def test_steps_that_every_does_not_divide(binding, engine) -> None:
    record = ENGINES[engine](Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]), binding, Plan(steps=5, timestep=1.0, every=3))
    assert record.time.tolist() == [0, 3]
    later = ENGINES[engine](Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]), binding, Plan(steps=5, timestep=1.0, every=5))
    assert later.time.tolist() == [0, 5]
    np.testing.assert_allclose(record.final.positions, later.final.positions, atol=1e-9)


@pytest.mark.parametrize(("options", "text"), [
    ({"steps": 0}, "steps.*from 1.*0"), ({"steps": 1.5}, "steps"), ({"every": 0}, "every"), ({"every": True}, "every"),
    ({"seed": -1}, "seed.*from 0"), ({"seed": 2**31}, "seed"), ({"timestep": 0.0}, "timestep.*positive"),
    ({"timestep": "1"}, "timestep"), ({"timestep": float("nan")}, "timestep"), ({"temperature": -1.0}, "temperature"),
    ({"friction": float("inf")}, "friction"), ({"ensemble": "nph"}, "nph.*nve, nvt, npt"),
    ({"pressure": "1"}, "pressure"), ({"max_temperature": 0}, "max_temperature.*positive"),
    ({"pressure": float("nan")}, "pressure"),
])
def test_bad_plans(options, text) -> None:
    with pytest.raises(OptionError, match=text):
        Plan(**options)

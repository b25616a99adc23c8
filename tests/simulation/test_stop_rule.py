"""Committees in dynamics: the mean moves the atoms in both engines, a rule stops them and keeps frames."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs

import mlip
from mlip.calculators import CommitteeCalculator, MLIPCalculator
from mlip.checkpoints import Committee
from mlip.errors import MLIPError, OptionError, UncertaintyError, UnknownElementError
from mlip.potentials import create_committee_force, create_system
from mlip.simulation import Plan, SpreadReporter, StopRule, run_ase, run_openmm
from mlip.simulation.openmm_engine import topology_of
from mlip.units import KJ_PER_MOL_PER_EV, NM_PER_ANGSTROM

openmm = pytest.importorskip("openmm")
ENGINES = {"ase": run_ase, "openmm": lambda *args, **options: run_openmm(*args, platform="Reference", **options)}
both_engines = pytest.mark.parametrize("engine", list(ENGINES))


@pytest.fixture(scope="module")
def committee(binding: mlip.Potential) -> Committee:
    """Two untrained models, one of which is stiffer."""
    return Committee([binding, mlip.create("mace", ["H", "C", "O", "Cu"], seed=1, channels=8, hidden_lmax=0,
                                           edge_lmax=1, correlation=2, radial_mlp=(8,), pair_repulsion=True, cutoff=5.0,
                                           dtype="float64")])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where selected frames go."""
    return tmp_path / "to-label.xyz"


def test_both_engines_follow_the_mean(committee: Committee, moving_copper: Atoms, tmp_path: Path) -> None:
    plan = Plan(steps=12, timestep=1.0, every=4)
    a, o = (ENGINES[e](moving_copper, committee, plan, trajectory=tmp_path / f"{e}.xyz") for e in ENGINES)
    assert a.potential[0] == pytest.approx(committee.predict(moving_copper).energy, abs=1e-9)
    for field in ("potential", "kinetic", "spread"):
        np.testing.assert_allclose(getattr(o, field), getattr(a, field), rtol=1e-6, atol=1e-7, err_msg=field)
    assert np.ptp(a.total) < 0.1 * np.ptp(a.potential)
    for engine in ENGINES:
        for frame, spread in zip(read(tmp_path / f"{engine}.xyz", ":"), a.spread, strict=True):
            assert frame.info["forces_std_max"] == pytest.approx(spread, rel=1e-6)
            assert committee.predict(frame).forces_std_max == pytest.approx(spread, rel=1e-5)
        assert "forces_std_max" not in read(tmp_path / f"{engine}.final.xyz").info


def test_one_model_has_no_spread(binding: mlip.Potential, moving_copper: Atoms) -> None:
    assert run_ase(moving_copper, binding, Plan(steps=1, every=1)).spread is None


@both_engines
def test_a_rule_stops_the_dynamics(committee: Committee, moving_copper: Atoms, path: Path, engine: str) -> None:
    plan = Plan(steps=60, timestep=2.0, every=1)
    spread = ENGINES[engine](moving_copper, committee, plan).spread
    limit = float(np.median(spread))
    expected = int(np.flatnonzero(spread > limit)[0])
    rule = StopRule(limit, selected=path)
    trajectory = path.with_name("run.xyz")
    with pytest.raises(UncertaintyError, match="stopped at step") as caught:
        ENGINES[engine](moving_copper, committee, plan, trajectory=trajectory, rule=rule)
    error = caught.value
    assert (error.step, error.limit) == (expected, limit)
    assert error.spread == pytest.approx(spread[expected], rel=1e-6)
    frame = read(path)
    assert frame.info["step"] == expected
    again = committee.predict(frame)
    np.testing.assert_allclose(frame.arrays["forces_std"], again.forces_std, atol=1e-6)
    assert error.atom == again.forces_std.argmax()
    assert frame.info["energy_std"] == pytest.approx(again.energy_std, abs=1e-6)
    assert len(read(trajectory, ":")) == expected + 1
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.step, twin.atom, twin.spread, twin.limit) == (
        str(error), error.step, error.atom, error.spread, error.limit)
    assert isinstance(error, MLIPError)
    assert isinstance(error, ArithmeticError)


def test_frames_hold_no_labels(committee: Committee, moving_copper: Atoms, path: Path) -> None:
    """What the committee says must not be trained on by mistake."""
    moving_copper.info.update(charge=0, comment="mine")
    with pytest.raises(UncertaintyError):
        run_ase(moving_copper, committee, Plan(steps=1), rule=StopRule(1e-9, selected=path))
    frame = read(path)
    assert frame.calc is None
    assert set(frame.info) == {"charge", "step", "energy_std", "forces_std_max"}
    assert set(frame.arrays) == {"numbers", "positions", "forces_std"}


def test_consecutive(committee: Committee, copper: Atoms) -> None:
    """Only checks in a row count."""
    quiet, loud = committee.predict(Atoms("Cu")), committee.predict(copper)
    rule = StopRule(1e-6, consecutive=2)
    for step, prediction in enumerate((loud, quiet, loud)):
        rule.check(step, copper, prediction)
    assert rule.largest == loud.forces_std_max
    with pytest.raises(UncertaintyError, match=r"step 3: .* for 2 checks in a row"):
        rule.check(3, copper, loud)


class TestSelection:
    def test_frames_differ(self, committee: Committee, moving_copper: Atoms, path: Path) -> None:
        """Of many frames above the limit few are kept, and no surroundings twice."""
        rule = StopRule(select_above=1e-6, selected=path)
        moving_copper.set_momenta(2 * moving_copper.get_momenta())
        run_ase(moving_copper, committee, Plan(steps=60, timestep=3.0), rule=rule)
        frames = read(path, ":")
        assert 1 < len(frames) == rule.kept < 30
        seen = []
        for frame in frames:
            worst = int(frame.arrays["forces_std"].argmax())
            seen.append(np.sort(frame.get_distances(worst, [i for i in range(4) if i != worst], mic=True)))
        apart = [np.sqrt(np.mean((a - b) ** 2)) for i, a in enumerate(seen) for b in seen[:i]]
        assert min(apart) > 0.1 - 1e-6

    def test_the_same_again(self, committee: Committee, path: Path) -> None:
        """Turned, shifted, and with other names for its atoms, a molecule is the same; another place is not."""
        rule = StopRule(select_above=1e-6, selected=path)
        atoms = molecule("CH3OH")
        atoms.rattle(0.1)
        same = atoms[[5, 3, 4, 0, 1, 2]]
        same.rotate(50, (1, 2, 3))
        same.translate(4)
        other = atoms.copy()
        other.positions[0] += 0.5
        for step, frame in enumerate((atoms, atoms, same, other, same)):
            rule.check(step, frame, committee.predict(frame))
        assert [frame.info["step"] for frame in read(path, ":")] == [0, 3]

    def test_at_most_so_many(self, committee: Committee, copper: Atoms, path: Path) -> None:
        path.write_text("of an earlier run")
        rule = StopRule(50.0, select_above=1e-6, selected=path, most=2)
        assert not path.exists()
        for step in range(5):
            copper.rattle(0.2, seed=step)
            rule.check(step, copper, committee.predict(copper))
        assert [frame.info["step"] for frame in read(path, ":")] == [0, 1]
        rule.stop_above = 1e-6
        with pytest.raises(UncertaintyError, match=r"to-label\.xyz: 3"):
            rule.check(5, copper, committee.predict(copper))
        assert [frame.info["step"] for frame in read(path, ":")] == [0, 1, 5]

    def test_quiet_frames_are_not_kept(self, committee: Committee, copper: Atoms, path: Path) -> None:
        rule = StopRule(select_above=1e3, selected=path)
        run_ase(copper, committee, Plan(steps=3), rule=rule)
        assert rule.kept == 0
        assert not path.exists()
        assert 0 < rule.largest < 1e3


@pytest.mark.parametrize("mover", [lambda a: VelocityVerlet(a, fs), lambda a: BFGS(a, logfile=io.StringIO()),
                                   lambda a: BFGS(FrechetCellFilter(a), logfile=io.StringIO())],
                         ids=["dynamics", "optimiser", "filter"])
def test_ases_own_movers(committee: Committee, copper: Atoms, path: Path, mover: Callable[[Atoms], Any]) -> None:
    copper.calc = CommitteeCalculator(committee)
    dynamics = mover(copper)
    rule = StopRule(select_above=1e-6, selected=path)
    rule.watch(dynamics, every=2)
    dynamics.run(steps=4)
    assert rule.kept >= 1
    assert {frame.info["step"] % 2 for frame in read(path, ":")} == {0}
    rule.stop_above = 1e-9
    copper.rattle(0.2, seed=5)
    with pytest.raises(UncertaintyError, match=r"step [46]"):
        dynamics.run(steps=4)


def test_what_is_refused(binding: mlip.Potential, copper: Atoms, path: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "nothing to watch for"), ({"stop_above": 0.0}, "positive"), ({"stop_above": np.nan}, "positive"),
        ({"stop_above": 0.2, "select_above": 0.3, "selected": path}, "below stop_above"),
        ({"select_above": 0.3}, "needs a file"), ({"stop_above": 1.0, "consecutive": 0}, "consecutive"),
        ({"select_above": 1.0, "selected": path, "most": 1.5}, "most"),
        ({"stop_above": 1.0, "selected": tmp_path / "frames.cif"}, "must end in"),
        ({"stop_above": 1.0, "selected": tmp_path / "absent" / "a.xyz"}, "no folder")]
    for options, text in cases:
        with pytest.raises(OptionError, match=text):
            StopRule(**options)
    for engine in ENGINES.values():
        with pytest.raises(OptionError, match=r"needs a .*ommittee"):
            engine(copper, binding, Plan(steps=1), rule=StopRule(1.0))
    copper.calc = MLIPCalculator(binding)
    with pytest.raises(OptionError, match="the atoms have MLIPCalculator"):
        StopRule(1.0).watch(VelocityVerlet(copper, fs))


class TestOpenMM:
    def test_the_force_is_the_mean(self, committee: Committee, copper: Atoms) -> None:
        force = create_committee_force(topology_of(copper), committee, force_group=3)
        assert force.getForceGroup() == 3
        assert force.usesPeriodicBoundaryConditions()
        twin = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
        p = committee.predict(copper)
        for each in (force, twin):
            system = create_system(topology_of(copper), committee, remove_cm_motion=False)
            system.removeForce(0)
            system.addForce(each)
            context = openmm.Context(system, openmm.VerletIntegrator(0.001),
                                     openmm.Platform.getPlatformByName("Reference"))
            context.setPositions(copper.positions * NM_PER_ANGSTROM)
            state = context.getState(energy=True, forces=True, groups={3})
            assert state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV == pytest.approx(p.energy, abs=1e-9)
            forces = state.getForces(asNumpy=True)._value / KJ_PER_MOL_PER_EV * NM_PER_ANGSTROM
            np.testing.assert_allclose(forces, p.forces, atol=1e-9)
            members = np.array(system.getForce(0).getCollectiveVariableValues(context)) / KJ_PER_MOL_PER_EV
            np.testing.assert_allclose(members, p.member_energies, atol=1e-9)

    def test_the_member_that_cannot_is_named(self, committee: Committee) -> None:
        pair = Committee([committee.members[0], mlip.create("mace", ["C", "O"], seed=0, channels=2, cutoff=3.0)])
        with pytest.raises(UnknownElementError, match=r"member 1 .* H "):
            create_committee_force([6, 1], pair)

    def test_a_reporter_stops_a_simulation(self, committee: Committee, moving_copper: Atoms, path: Path) -> None:
        """One model moves two copies of the atoms; the committee judges the second."""
        twice = moving_copper * (2, 1, 1)
        second = moving_copper.copy()
        second.pbc = False
        simulation = openmm.app.Simulation(topology_of(twice), create_system(topology_of(twice), committee.members[0]),
                                           openmm.VerletIntegrator(0.002))
        simulation.context.setPositions(twice.positions * NM_PER_ANGSTROM)
        reporter = SpreadReporter(StopRule(select_above=1e-6, selected=path), committee, second, 3, range(4, 8))
        simulation.reporters.append(reporter)
        simulation.step(7)
        assert reporter.rule.kept == 1  # steps 3 and 6 are alike
        frame = read(path)
        assert frame.info["step"] == 3
        assert not frame.pbc.any()
        assert reporter.rule.largest >= committee.predict(frame).forces_std_max * (1 - 1e-6)
        reporter.rule.stop_above = 1e-6
        with pytest.raises(UncertaintyError, match="step 9"):
            simulation.step(7)
        positions = simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
        np.testing.assert_allclose(read(path, -1).positions, positions[4:] / NM_PER_ANGSTROM, atol=1e-6)

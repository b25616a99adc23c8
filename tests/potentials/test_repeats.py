"""What OpenMM asks twice is evaluated once, and is the same to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import openmm
import pytest

import mlip
from mlip.checkpoints import Potential
from mlip.potentials import create_dispersion_force, create_force, create_system
from mlip.potentials.repeats import Repeats

STEPS = 6


def slow_and_fast() -> openmm.CustomIntegrator:
    """Velocity Verlet that asks for one force group in the middle of a step, and for another at both ends."""
    made = openmm.CustomIntegrator(0.0005)
    for line in ("v+0.5*dt*f0/m", "v+0.25*dt*f1/m"):
        made.addComputePerDof("v", line)
    made.addComputePerDof("x", "x+0.5*dt*v")
    made.addComputePerDof("v", "v+0.5*dt*f1/m")
    made.addComputePerDof("x", "x+0.5*dt*v")
    for line in ("v+0.25*dt*f1/m", "v+0.5*dt*f0/m"):
        made.addComputePerDof("v", line)
    return made


INTEGRATORS: dict[str, Callable[[], openmm.Integrator]] = {
    "verlet": lambda: openmm.VerletIntegrator(0.0005),
    "langevin": lambda: openmm.LangevinMiddleIntegrator(300, 10, 0.0005),
    "brownian": lambda: openmm.BrownianIntegrator(300, 1000, 0.0005),
    "nose-hoover": lambda: openmm.NoseHooverIntegrator(300, 10, 0.0005),
    "variable": lambda: openmm.VariableVerletIntegrator(1e-4),
    "custom": slow_and_fast}


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one at each evaluation of a model."""
    found: list[int] = []
    evaluate = Potential.evaluate_batch

    def counting(self: Potential, *arguments: object, **options: object) -> object:
        found.append(1)
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(Potential, "evaluate_batch", counting)
    return found


def box_of(context: openmm.Context) -> np.ndarray:
    return context.getState().getPeriodicBoxVectors(asNumpy=True)._value


@pytest.mark.parametrize("name", list(INTEGRATORS))
def test_a_frame_costs_no_evaluation(mace, methanol, omm, evaluations, name) -> None:
    system = create_system(omm.topology(methanol.numbers), mace)
    spring = openmm.CustomExternalForce("x^2")
    spring.addParticle(0, [])
    spring.setForceGroup(1)
    system.addForce(spring)
    context = openmm.Context(system, INTEGRATORS[name](), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * methanol.positions)
    context.setVelocitiesToTemperature(300, 1)
    frames = []
    for _ in range(STEPS):
        context.getIntegrator().step(1)
        frames.append(context.getState(energy=True, forces=True, positions=True, groups={0}))
    assert len(evaluations) == STEPS + 1  # where it began
    assert len({frame.getPotentialEnergy()._value for frame in frames}) == STEPS
    for frame in frames:
        fresh = omm.context(omm.system(len(methanol), create_force(methanol.numbers, mace)),
                            10 * frame.getPositions(asNumpy=True)._value)
        fresh.setPositions(frame.getPositions())  # without factors that round
        again = fresh.getState(energy=True, forces=True)
        assert again.getPotentialEnergy() == frame.getPotentialEnergy()
        assert np.array_equal(again.getForces(asNumpy=True)._value, frame.getForces(asNumpy=True)._value)


def test_the_box_counts(mace, crystal, omm, evaluations) -> None:
    """Same positions in another box, and back."""
    context = omm.context(create_system(omm.topology(crystal.numbers, crystal.cell), mace), crystal.positions)
    first = omm.results(context)
    assert omm.results(context)[0] == first[0]
    assert len(evaluations) == 1
    before = box_of(context)
    context.setPeriodicBoxVectors(*(1.01 * before))
    assert omm.results(context)[0] != first[0]
    context.setPeriodicBoxVectors(*before)
    again = omm.results(context)
    assert again[0] == first[0]
    assert np.array_equal(again[1], first[1])
    assert len(evaluations) == 3


def test_a_barostat(mace, crystal, omm) -> None:
    system = create_system(omm.topology(crystal.numbers, crystal.cell), mace)
    for particle in range(len(crystal)):
        system.setParticleMass(particle, 60.0)
    barostat = openmm.MonteCarloBarostat(1e6, 300, 1)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    context = openmm.Context(system, openmm.LangevinMiddleIntegrator(300, 1, 0.0005),
                             openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * crystal.positions)
    boxes = set()
    for _ in range(20):
        context.getIntegrator().step(1)
        state = context.getState(energy=True, positions=True)
        boxes.add(float(state.getPeriodicBoxVectors(asNumpy=True)._value[0, 0]))
        fresh = omm.context(create_system(omm.topology(crystal.numbers, crystal.cell), mace), crystal.positions)
        fresh.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        fresh.setPositions(state.getPositions())
        assert fresh.getState(energy=True).getPotentialEnergy() == state.getPotentialEnergy()
    assert 1 < len(boxes) < 20  # some changes were refused


def test_contexts_in_turn(mace, methanol, omm, evaluations) -> None:
    """Two that share a force, each where it is; and a copy, which begins with nothing."""
    system = omm.system(len(methanol), create_force(methanol.numbers, mace))
    moved = methanol.positions + np.array([[0.05, 0.0, 0.0]] + [[0.0, 0.0, 0.0]] * 5)
    here, there = omm.context(system, methanol.positions), omm.context(system, moved)
    energies = [omm.results(context)[0] for context in (here, there, here, there)]
    assert energies[:2] == energies[2:]
    assert energies[0] != energies[1]
    assert len(evaluations) == 4
    assert omm.results(omm.context(copy.deepcopy(system), methanol.positions))[0] == energies[0]
    assert len(evaluations) == 5


def test_what_nobody_looked_at_is_looked_at(mace, omm) -> None:
    """A minimiser may try atoms that are too close; dynamics that stand there stop."""
    apart, close = np.array([[0.0, 0, 0], [0, 0, 1.2]]), np.array([[0.0, 0, 0], [0, 0, 0.5]])
    model = mlip.create("mace", ["C"], channels=2, edge_lmax=1, correlation=1, pair_repulsion=True, dtype="float64")
    context = omm.context(omm.system(2, create_force([6, 6], model)), apart)
    omm.results(context)
    context.setPositions(0.1 * close)
    assert omm.results(context)[0] > 10.0
    context.setStepCount(1)
    with pytest.raises(openmm.OpenMMException, match="CloseContactError"):
        omm.results(context)


def test_dispersion(mace, methanol, omm, monkeypatch) -> None:
    pytest.importorskip("dftd3")
    from mlip.checkpoints.dispersion import Dispersion

    found, evaluate = [], Dispersion.__call__
    monkeypatch.setattr(Dispersion, "__call__", lambda self, structure: found.append(1) or evaluate(self, structure))
    force = create_dispersion_force(methanol.numbers.tolist(), "d3bj:pbe")
    context = omm.context(omm.system(len(methanol), force), methanol.positions)
    for _ in range(3):
        context.getState(energy=True, forces=True)
        context.getIntegrator().step(1)
    assert len(found) == 3


def test_what_fails_is_not_kept() -> None:
    repeats = Repeats[list[int]]()
    positions, cell = np.zeros((2, 3)), np.zeros((3, 3))
    assert repeats.find(positions, cell) is None
    kept = repeats.keep(positions, cell, [1])
    assert repeats.find(positions.copy(), cell.copy()) is kept
    assert repeats.find(np.full((2, 3), 5e-324), cell) is None
    assert repeats.find(positions[:1], cell) is None

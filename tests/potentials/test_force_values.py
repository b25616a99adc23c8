"""The OpenMM force gives the numbers of `Potential.predict`, in the units of OpenMM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmm
import pytest
from ase import Atoms

from mlip import units
from mlip.potentials import create_force, create_system

TOLERANCE = {"float64": 1e-9, "float32": 1e-6}


def relative(value: object, reference: object) -> float:
    """Return the largest difference relative to the largest reference value."""
    a, b = np.asarray(value), np.asarray(reference)
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_molecule_equals_predict(mace, methanol, omm, dtype, platform) -> None:
    system = create_system(omm.topology(methanol.numbers), mace, dtype=dtype)
    assert not system.usesPeriodicBoundaryConditions()
    energy, forces = omm.results(omm.context(system, methanol.positions, platform))
    expected = mace.to(dtype=dtype).predict(methanol)
    # the CPU platform holds positions and forces in single precision
    tolerance = TOLERANCE[dtype] if platform == "Reference" else 1e-6
    assert relative(energy, expected.energy) < tolerance
    assert relative(forces, expected.forces) < (tolerance if platform == "Reference" else 5e-6)


def test_every_model_equals_predict(potential, methanol, omm) -> None:
    """All families and variants; the tests around take one of them."""
    system = create_system(omm.topology(methanol.numbers), potential)
    energy, forces = omm.results(omm.context(system, methanol.positions))
    expected = potential.predict(methanol)
    assert relative(energy, expected.energy) < 1e-9
    assert relative(forces, expected.forces) < 1e-9


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_triclinic_crystal_equals_predict(mace, crystal, omm, dtype) -> None:
    system = create_system(omm.topology(crystal.numbers, crystal.cell.array), mace, dtype=dtype)
    assert system.usesPeriodicBoundaryConditions()
    energy, forces = omm.results(omm.context(system, crystal.positions))
    expected = mace.to(dtype=dtype).predict(crystal)
    assert relative(energy, expected.energy) < TOLERANCE[dtype]
    assert relative(forces, expected.forces) < 10 * TOLERANCE[dtype]


def test_the_box_of_the_context_is_the_cell(mace, crystal, omm) -> None:
    force = create_force(crystal.numbers, mace, periodic=True)
    strained = crystal.copy()
    strained.set_cell(crystal.cell.array * 1.03, scale_atoms=True)
    context = omm.context(omm.system(len(crystal), force), crystal.positions, box=crystal.cell.array)
    first = omm.results(context)[0]
    context.setPeriodicBoxVectors(*(strained.cell.array * 0.1))
    context.setPositions(strained.positions * 0.1)
    assert relative(first, mace.predict(crystal).energy) < 1e-9
    assert relative(omm.results(context)[0], mace.predict(strained).energy) < 1e-9


def test_forces_are_the_derivative_of_the_energy(mace, crystal, omm) -> None:
    system = create_system(omm.topology(crystal.numbers, crystal.cell.array), mace)
    context = omm.context(system, crystal.positions)
    forces = omm.results(context)[1]
    eps = 1e-3
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        energies = []
        for step in (-eps, eps):
            moved = crystal.positions.copy()
            moved[atom, axis] += step
            context.setPositions(moved * 0.1)
            energies.append(omm.results(context)[0])
        assert (energies[0] - energies[1]) / (2 * eps) == pytest.approx(forces[atom, axis], abs=1e-5)


def test_unit_factors() -> None:
    exact = 1.602176634e-19 * 6.02214076e23 / 1000
    assert pytest.approx(exact, rel=1e-15) == units.KJ_PER_MOL_PER_EV
    assert pytest.approx(96.48533212331001, rel=1e-12) == units.KJ_PER_MOL_PER_EV
    assert pytest.approx(964.8533212331001, rel=1e-12) == units.KJ_PER_MOL_NM_PER_EV_A


def test_openmm_units_reach_openmm(mace, methanol, omm) -> None:
    system = create_system(omm.topology(methanol.numbers), mace)
    state = omm.context(system, methanol.positions).getState(energy=True)
    kj = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    assert kj / mace.predict(methanol).energy == pytest.approx(96.48533212331001, rel=1e-12)


def test_wrapped_positions_give_the_same_energy(mace, crystal, omm) -> None:
    system = create_system(omm.topology(crystal.numbers, crystal.cell.array), mace, skin=1.0)
    context = omm.context(system, crystal.positions)
    reference = omm.results(context)
    shifts = np.random.default_rng(0).integers(-3, 4, (len(crystal), 3))
    context.setPositions((crystal.positions + shifts @ crystal.cell.array) * 0.1)
    wrapped = omm.results(context)
    assert relative(wrapped[0], reference[0]) < 1e-12
    assert relative(wrapped[1], reference[1]) < 1e-9


def test_subset_in_the_order_given(mace, methanol, omm) -> None:
    others = Atoms("N2", [[9.0, 9, 9], [9, 9, 10]])  # nitrogen is unknown to the model
    everything = methanol[:3] + others + methanol[3:]
    chosen = [7, 0, 5, 2, 1, 6]
    force = create_force(omm.topology(everything.numbers), mace, chosen)
    energy, forces = omm.results(omm.context(omm.system(len(everything), force), everything.positions))
    expected = mace.predict(everything[chosen])
    assert relative(energy, expected.energy) < 1e-9
    assert relative(forces[chosen], expected.forces) < 1e-9
    assert np.all(forces[[3, 4]] == 0)


def test_force_groups(mace, methanol, omm) -> None:
    one = create_force(methanol.numbers, mace, force_group=3)
    two = create_force(methanol.numbers, mace, [0, 1], force_group=7)
    context = omm.context(omm.system(len(methanol), one, two), methanol.positions)
    assert relative(omm.results(context, 1 << 3)[0], mace.predict(methanol).energy) < 1e-9
    assert relative(omm.results(context, 1 << 7)[0], mace.predict(methanol[[0, 1]]).energy) < 1e-9
    assert omm.results(context, 1)[0] == 0


def test_interaction_energy(mace, methanol, omm) -> None:
    total = omm.results(omm.context(create_system(omm.topology(methanol.numbers), mace), methanol.positions))
    system = create_system(omm.topology(methanol.numbers), mace, energy="interaction")
    energy, forces = omm.results(omm.context(system, methanol.positions))
    isolated = sum(mace.predict(Atoms([z])).energy for z in methanol.numbers)
    assert energy == pytest.approx(total[0] - isolated, abs=1e-9)
    np.testing.assert_array_equal(forces, total[1])


def test_two_contexts_share_a_force(mace, methanol, omm) -> None:
    system = create_system(omm.topology(methanol.numbers), mace)
    stretched = methanol.copy()
    stretched.positions *= 1.2
    contexts = [omm.context(system, atoms.positions) for atoms in (methanol, stretched)]
    for _ in range(3):
        for context, atoms in zip(contexts, (methanol, stretched), strict=True):
            assert relative(omm.results(context)[0], mace.predict(atoms).energy) < 1e-12


def test_threads_share_a_force(mace, methanol, omm) -> None:
    system = create_system(omm.topology(methanol.numbers), mace)
    molecules = [methanol.copy() for _ in range(3)]
    for i, atoms in enumerate(molecules):
        atoms.positions *= 1 + 0.05 * i
    contexts = [omm.context(system, atoms.positions) for atoms in molecules]
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(lambda c: [omm.results(c)[0] for _ in range(5)], contexts))
    for energies, atoms in zip(threaded, molecules, strict=True):
        assert relative(energies, [mace.predict(atoms).energy] * 5) < 1e-12


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_energy_is_conserved_to_second_order_in_the_step(mace, methanol, omm, skin) -> None:
    system = create_system(omm.topology(methanol.numbers), mace, skin=skin, remove_cm_motion=False)

    def drift(step: float) -> float:
        context = omm.context(system, methanol.positions, step=step)
        context.setVelocitiesToTemperature(300, 1)
        parts = []
        for steps in (0, round(0.016 / step)):
            context.getIntegrator().step(steps)
            state = context.getState(energy=True)
            parts.append((state.getPotentialEnergy()._value, state.getKineticEnergy()._value))
        assert abs(parts[1][1] - parts[0][1]) > 0.5  # kJ/mol went from one kind of energy to the other
        return sum(parts[1]) - sum(parts[0])

    coarse, fine = drift(0.0004), drift(0.0002)
    assert abs(fine) < 0.02
    assert coarse / fine == pytest.approx(4.0, rel=0.1)


def test_restart_from_a_checkpoint_is_exact(mace, methanol, omm) -> None:
    def simulation() -> openmm.Context:
        system = create_system(omm.topology(methanol.numbers), mace)
        integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
        integrator.setRandomNumberSeed(7)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(methanol.positions * 0.1)
        return context

    through = simulation()
    through.getIntegrator().step(7)
    checkpoint = through.createCheckpoint()
    through.getIntegrator().step(20)
    again = simulation()
    again.loadCheckpoint(checkpoint)
    again.getIntegrator().step(20)
    ends = [c.getState(positions=True).getPositions(asNumpy=True)._value for c in (through, again)]
    np.testing.assert_array_equal(ends[0], ends[1])


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_constant_pressure(mace, crystal, omm, skin) -> None:
    system = create_system(omm.topology(crystal.numbers, crystal.cell.array), mace, skin=skin)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 1)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    context = omm.context(system, crystal.positions)
    context.getIntegrator().step(12)
    state = context.getState(positions=True, energy=True)
    after = crystal.copy()
    angstrom = openmm.unit.angstrom
    after.set_cell(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(angstrom))
    after.positions = state.getPositions(asNumpy=True).value_in_unit(angstrom)
    assert abs(after.get_volume() / crystal.get_volume() - 1) > 1e-4
    kj = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    assert relative(kj, mace.predict(after).energy * 96.48533212331001) < 1e-9


def test_system_from_topology(mace, crystal, omm) -> None:
    system = create_system(omm.topology(crystal.numbers, crystal.cell.array), mace)
    vectors = system.getDefaultPeriodicBoxVectors()
    box = np.array([list(v.value_in_unit(openmm.unit.angstrom)) for v in vectors])
    np.testing.assert_allclose(box, crystal.cell.array, atol=1e-12)
    masses = [system.getParticleMass(i)._value for i in range(len(crystal))]
    np.testing.assert_allclose(masses, crystal.get_masses(), rtol=1e-3)
    assert [type(f).__name__ for f in system.getForces()] == ["PythonForce", "CMMotionRemover"]
    bare = create_system(omm.topology(crystal.numbers), mace, remove_cm_motion=False)
    assert bare.getNumForces() == 1
    assert not bare.usesPeriodicBoundaryConditions()

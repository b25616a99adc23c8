"""D3 as an OpenMM force: numbers, subsets, copies."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from ase import Atoms

import mlip
from mlip.checkpoints.dispersion import Dispersion
from mlip.errors import OptionError, TopologyError
from mlip.io.ase import structure_of
from mlip.potentials import create_dispersion_force, create_system
from mlip.simulation.openmm_engine import topology_of
from mlip.units import KJ_PER_MOL_NM_PER_EV_A, KJ_PER_MOL_PER_EV

openmm = pytest.importorskip("openmm")
pytest.importorskip("dftd3.interface", reason="s-dftd3 is not installed: pip install \"mlip-md[d3]\"")


def evaluated(system: openmm.System, atoms: Atoms) -> tuple[float, np.ndarray]:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    if atoms.pbc.all():
        context.setPeriodicBoxVectors(*(atoms.cell.array / 10))
    context.setPositions(atoms.positions / 10)
    state = context.getState(energy=True, forces=True)
    return (state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV,
            state.getForces(asNumpy=True)._value / KJ_PER_MOL_NM_PER_EV_A)


def crystal() -> Atoms:
    """A triclinic cell in the form OpenMM wants."""
    cell = [[4.1, 0.0, 0.0], [1.2, 4.4, 0.0], [-1.2, 0.9, 5.0]]
    return Atoms("CuOC", cell=cell, pbc=True, scaled_positions=[[0.1, 0.1, 0.1], [0.6, 0.4, 0.5], [0.2, 0.7, 0.8]])


@pytest.mark.parametrize("kind", ["molecule", "crystal"])
def test_beside_a_model(mace: mlip.Potential, structures: dict[str, Atoms], kind: str) -> None:
    atoms = structures["molecule"] if kind == "molecule" else crystal()
    topology = topology_of(atoms)
    d3 = Dispersion("d3bj:pbe")(structure_of(atoms))
    plain = evaluated(create_system(topology, mace), atoms)
    system = create_system(topology, mace, dispersion="d3bj:pbe")
    read = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    for each in (system, copy.deepcopy(system), read):
        energy, forces = evaluated(each, atoms)
        assert energy - plain[0] == pytest.approx(d3.energy, rel=1e-7)
        np.testing.assert_allclose(forces - plain[1], d3.forces, rtol=0, atol=1e-8)


def test_of_some_particles(structures: dict[str, Atoms]) -> None:
    atoms, chosen = structures["molecule"], [4, 0, 1]
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(create_dispersion_force(atoms.numbers.tolist(), "d3zero:pbe", chosen, force_group=3))
    energy, forces = evaluated(system, atoms)
    d3 = Dispersion("d3zero:pbe")(structure_of(atoms[chosen]))
    assert energy == pytest.approx(d3.energy, rel=1e-9)
    np.testing.assert_allclose(forces[chosen], d3.forces, rtol=0, atol=1e-12)
    assert not np.delete(forces, chosen, axis=0).any()
    assert system.getForce(0).getForceGroup() == 3


def test_not_a_number(structures: dict[str, Atoms]) -> None:
    atoms = structures["molecule"]
    atoms.positions[2] = np.nan
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(create_dispersion_force(atoms.numbers.tolist(), "d3bj:pbe"))
    with pytest.raises(openmm.OpenMMException, match=r"first \[2\]"):
        evaluated(system, atoms)


def test_mistakes(mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
    with pytest.raises(OptionError, match="d3bj:pbe"):
        create_dispersion_force([1, 1], "pbe")
    with pytest.raises(OptionError, match="force_group"):
        create_dispersion_force([1, 1], "d3bj:pbe", force_group=32)
    with pytest.raises(TopologyError, match="more than once"):
        create_dispersion_force([1, 1], "d3bj:pbe", [0, 0])
    known = mlip.Potential(mace.model, dataclasses.replace(mace.info, training_data="SPICE, wB97M-D3(BJ)"))
    with pytest.raises(OptionError, match="twice"):
        create_system(topology_of(structures["molecule"]), known, dispersion="d3bj:pbe")

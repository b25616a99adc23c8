"""`MLPotential("mlip", model=...)`: pure ML, mixed ML/MM with link atoms, and interpolation."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from mlip.errors import OptionError, TopologyError, UnknownElementError
from mlip.potentials.openmmml_plugin import MLIPPotentialImplFactory

openmmml = pytest.importorskip("openmmml")
MLPotential = openmmml.MLPotential
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "mlip.potentials.openmmml_plugin:MLIPPotentialImplFactory"
if "mlip" not in MLPotential._implFactories:  # the package is used from its folder, without entry points
    MLPotential.registerImplFactory("mlip", MLIPPotentialImplFactory())


@pytest.fixture(scope="module")
def water() -> tuple[app.Topology, np.ndarray, openmm.System]:
    """Return topology, positions in nm and classical System of a small periodic box of water."""
    forcefield = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(forcefield, model="tip3p", boxSize=openmm.Vec3(1.4, 1.4, 1.4) * unit.nanometer)
    system = forcefield.createSystem(modeller.topology, nonbondedMethod=app.PME,
                                     nonbondedCutoff=0.6 * unit.nanometer)
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)), system


def reference_context(system: openmm.System) -> openmm.Context:
    """Return a Context on the Reference platform."""
    platform = openmm.Platform.getPlatformByName("Reference")
    return openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)


def energy_of(system: openmm.System, positions: np.ndarray, **parameters: float) -> float:
    """Return the energy in kJ/mol on the Reference platform."""
    context = reference_context(system)
    context.setPositions(positions)
    context.computeVirtualSites()
    for name, value in parameters.items():
        context.setParameter(name, value)
    return float(context.getState(energy=True).getPotentialEnergy()._value)


def ml_energy(potential, topology, positions, atoms, box=None) -> float:
    """Return the energy in kJ/mol that `predict` gives for some atoms of a topology, positions in nm."""
    from ase import Atoms

    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    chosen = Atoms([numbers[i] for i in atoms], positions[list(atoms)] * 10, cell=box, pbc=box is not None)
    return potential.predict(chosen).energy * 96.48533212331001


def test_the_entry_point_is_declared() -> None:
    entry = EntryPoint("mlip", PLUGIN, "openmmml.potentials")
    assert isinstance(entry.load()(), MLIPPotentialImplFactory)
    assert f'mlip = "{PLUGIN}"' in (ROOT / "pyproject.toml").read_text()
    installed = [e.value for e in entry_points(group="openmmml.potentials") if e.name == "mlip"]
    assert installed in ([], [PLUGIN])


@pytest.mark.parametrize("first", ["mlip.potentials.openmmml_plugin", "openmmml"])
def test_imports_are_light_in_any_order(first) -> None:
    code = (f"import sys, {first}, openmmml, mlip.potentials.openmmml_plugin as p\n"
            "p.MLIPPotentialImplFactory()\n"
            "assert 'torch' not in sys.modules and 'ase' not in sys.modules, 'heavy'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("form", ["potential", "path"])
def test_create_system(saved, methanol, omm, form) -> None:
    potential = MLPotential("mlip", model=saved if form == "potential" else saved.path)
    system = potential.createSystem(omm.topology(methanol.numbers))
    assert [type(f).__name__ for f in system.getForces()] == ["PythonForce", "CMMotionRemover"]
    assert energy_of(system, methanol.positions * 0.1) == pytest.approx(
        saved.predict(methanol).energy * 96.48533212331001, rel=1e-9)


def test_create_periodic_system(mace, crystal, omm) -> None:
    system = MLPotential("mlip", model=mace).createSystem(omm.topology(crystal.numbers, crystal.cell.array))
    assert system.usesPeriodicBoundaryConditions()
    assert energy_of(system, crystal.positions * 0.1) == pytest.approx(
        mace.predict(crystal).energy * 96.48533212331001, rel=1e-9)


def test_options_in_both_places(mace, methanol, omm) -> None:
    topology = omm.topology(methanol.numbers)
    potential = MLPotential("mlip", model=mace, precision="single", charge=0, multiplicity=1, device="cpu")

    def settings(**options: object) -> bytes:
        xml = openmm.XmlSerializer.serialize(potential.createSystem(topology, **options))
        return bytes.fromhex(xml.split('function="')[1].split('"')[0])

    single, double = settings(), settings(dtype="float64", unknown_option=3)
    assert b"float32" in single
    assert b"float64" in double
    interaction = potential.createSystem(topology, dtype="double", returnEnergyType="interaction_energy")
    isolated = sum(mace.predict(methanol[[i]]).energy for i in range(len(methanol)))
    assert energy_of(interaction, methanol.positions * 0.1) / 96.48533212331001 == pytest.approx(
        mace.predict(methanol).energy - isolated, abs=1e-6)


def test_bad_options(mace, omm) -> None:
    for options, text in (({}, "needs a model"), ({"model": mace, "modelPath": "x"}, "modelPath.*allowed"),
                          ({"model": mace, "precision": "single", "dtype": "float64"}, "give one"),
                          ({"model": mace, "returnEnergyType": "free"}, "interaction_energy")):
        with pytest.raises(OptionError, match=text):
            MLPotential("mlip", **options)
    potential = MLPotential("mlip", model=mace)
    with pytest.raises(UnknownElementError):
        potential.createSystem(omm.topology([7, 1]))
    topology = omm.topology([8, 1])
    topology.addAtom("M", None, next(topology.residues()))
    with pytest.raises(TopologyError):
        potential.createSystem(topology)


def test_mixed_system(mace, water) -> None:
    topology, positions, mm_system = water
    atoms = [3, 4, 5, 9, 10, 11]
    box = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.angstrom))
    potential = MLPotential("mlip", model=mace)
    mixed = potential.createMixedSystem(topology, mm_system, atoms, forceGroup=4)
    force = next(f for f in mixed.getForces() if isinstance(f, openmm.PythonForce))
    assert list(force.getParticles()) == atoms
    assert force.getForceGroup() == 4
    assert force.usesPeriodicBoundaryConditions()
    ml = ml_energy(mace, topology, positions, atoms, box)
    context = reference_context(mixed)
    context.setPositions(positions)
    state = context.getState(energy=True, groups={4})
    assert state.getPotentialEnergy()._value == pytest.approx(ml, rel=1e-9)
    context.getIntegrator().step(2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_interpolation(mace, water, dtype) -> None:
    topology, positions, mm_system = water
    atoms = [9, 10, 11, 0, 1, 2]
    potential = MLPotential("mlip", model=mace, dtype=dtype)
    mixed = potential.createMixedSystem(topology, mm_system, atoms)
    both = potential.createMixedSystem(topology, mm_system, atoms, interpolate=True)
    assert len(openmm.XmlSerializer.serialize(both)) < 3 * len(openmm.XmlSerializer.serialize(mm_system))
    classical, learned = energy_of(mm_system, positions), energy_of(mixed, positions)
    start, end, between = (energy_of(both, positions, lambda_interpolate=x) for x in (0.0, 1.0, 0.25))
    assert start == pytest.approx(classical, abs=0.01)  # openmm-ml's own bound: its Coulomb exceptions differ
    assert end == pytest.approx(learned, rel=1e-9)
    assert between == pytest.approx(0.75 * start + 0.25 * end, rel=1e-9)


def test_link_atoms(mace, methanol, omm) -> None:
    """The methyl group of methanol is ML; the bond to oxygen is cut and capped by a hydrogen."""
    topology = omm.topology(methanol.numbers)
    members = list(topology.atoms())
    carbon, oxygen = (next(i for i, z in enumerate(methanol.numbers) if z == e) for e in (6, 8))
    topology.addBond(members[carbon], members[oxygen])
    near = [methanol.get_distance(i, carbon) < 1.3 for i in range(len(methanol))]
    hydrogens = [i for i, z in enumerate(methanol.numbers) if z == 1 and near[i]]
    nonbonded, bonds = openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for _ in members:
        nonbonded.addParticle(0, 0.1, 0)
    bonds.addBond(carbon, oxygen, 0.14, 1000.0)
    mm_system = omm.system(methanol.get_masses(), nonbonded, bonds)
    atoms = [carbon, *hydrogens]
    info = MLPotential("mlip", model=mace).createMixedSystem(topology, mm_system, atoms, returnInfo=True)
    system = info["system"]
    force = next(f for f in system.getForces() if isinstance(f, openmm.PythonForce))
    assert list(force.getParticles()) == [*atoms, len(members)]  # the cap comes last
    context = reference_context(system)
    context.setPositions(np.vstack([methanol.positions * 0.1, [0.0, 0.0, 0.0]]))
    context.computeVirtualSites()
    capped = context.getState(positions=True).getPositions(asNumpy=True)._value
    ml = ml_energy(mace, info["topology"], capped, [*atoms, len(members)])
    stretched = 0.5 * 1000 * (methanol.get_distance(carbon, oxygen) * 0.1 - 0.14) ** 2
    total = context.getState(energy=True).getPotentialEnergy()._value
    assert total == pytest.approx(ml + stretched, rel=1e-9)
    context.getIntegrator().step(5)

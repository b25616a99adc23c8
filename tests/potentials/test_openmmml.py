"""`MLPotential("mlip", model=...)`: pure ML, mixed ML/MM with link atoms, and interpolation."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

import mlip
from mlip.errors import OptionError, StructureError, TopologyError, UnknownElementError
from mlip.potentials.openmmml_plugin import MLIPPotentialImplFactory

openmmml = pytest.importorskip("openmmml")
MLPotential = openmmml.MLPotential
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "mlip.potentials.openmmml_plugin:MLIPPotentialImplFactory"
NAMES = {"mlip": "mace", "mace-mlip": "mace", "gaunt-mace": "mace-gaunt", "equiformer-v3": "equiformer-v3",
         "transip": "transip"}  # and a model that each takes
for _name in NAMES:
    if _name not in MLPotential._implFactories:  # the package is used from its folder, without entry points
        MLPotential.registerImplFactory(_name, MLIPPotentialImplFactory())


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


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_points_are_declared(name) -> None:
    entry = EntryPoint(name, PLUGIN, "openmmml.potentials")
    assert isinstance(entry.load()(), MLIPPotentialImplFactory)
    assert f'\n{name} = "{PLUGIN}"\n' in (ROOT / "pyproject.toml").read_text()
    installed = [e.value for e in entry_points(group="openmmml.potentials") if e.name == name]
    assert installed in ([], [PLUGIN])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_takes_its_family_only(family_of, methanol, omm, name) -> None:
    topology = omm.topology(methanol.numbers)
    for other in sorted(set(NAMES.values())):
        model = family_of(other)
        if name == "mlip" or other == NAMES[name]:
            system = MLPotential(name, model=model).createSystem(topology)
            assert energy_of(system, methanol.positions * 0.1) == pytest.approx(
                model.predict(methanol).energy * 96.48533212331001, rel=1e-9)
        else:
            with pytest.raises(OptionError, match=rf"MLPotential\('{name}'\) does not take .* or 'mlip'"):
                MLPotential(name, model=model)


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


def test_link_atoms_interpolate(mace, methanol, omm) -> None:
    """With a cap the ends of the interpolation are still the classical and the mixed System."""
    topology = omm.topology(methanol.numbers)
    members = list(topology.atoms())
    carbon, oxygen = (next(i for i, z in enumerate(methanol.numbers) if z == e) for e in (6, 8))
    topology.addBond(members[carbon], members[oxygen])
    hydrogens = [i for i, z in enumerate(methanol.numbers) if z == 1 and methanol.get_distance(i, carbon) < 1.3]
    nonbonded, bonds = openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for i in range(len(members)):
        nonbonded.addParticle(0.1 * (-1) ** i, 0.1, 0)
    bonds.addBond(carbon, oxygen, 0.14, 1000.0)
    bonds.addBond(carbon, hydrogens[0], 0.12, 1000.0)
    mm_system = omm.system(methanol.get_masses(), nonbonded, bonds)
    potential = MLPotential("mace-mlip", model=mace)
    options = {"linkAtomDistances": [(carbon, oxygen, 0.11 * unit.nanometer)]}
    both, mixed = (potential.createMixedSystem(topology, mm_system, [carbon, *hydrogens], interpolate=x, **options)
                   for x in (True, False))
    everything = np.vstack([methanol.positions * 0.1, [0.0, 0.0, 0.0]])
    assert energy_of(both, everything, lambda_interpolate=0.0) == pytest.approx(
        energy_of(mm_system, methanol.positions * 0.1), abs=1e-6)
    assert energy_of(both, everything, lambda_interpolate=1.0) == pytest.approx(energy_of(mixed, everything), rel=1e-9)
    context = reference_context(mixed)
    context.setPositions(everything)
    context.computeVirtualSites()
    capped = context.getState(positions=True).getPositions(asNumpy=True)._value
    assert np.linalg.norm(capped[-1] - capped[carbon]) == pytest.approx(0.11)


@pytest.mark.filterwarnings("ignore:no charge")
def test_charge_and_multiplicity_reach_the_model(omm, methanol) -> None:
    """Given to the constructor, or to `createSystem` and `createMixedSystem`, which win."""
    model = mlip.create("transip", ["H", "C", "O"], channels=16, num_layers=1, num_heads=2, cutoff=4.0,
                        charges=(-1, 0, 1), spins=(1, 2), seed=3).to(dtype="float64")
    model.model.state.output.normal_(generator=torch.Generator().manual_seed(0))  # zero before training
    expected = {}
    for charge, spin in ((0, 1), (1, 2)):
        methanol.info.update(charge=charge, spin=spin)
        expected[charge] = model.predict(methanol).energy * 96.48533212331001
    assert expected[0] != pytest.approx(expected[1], rel=1e-6)
    topology, positions = omm.topology(methanol.numbers), methanol.positions * 0.1
    ion = MLPotential("transip", model=model, charge=1, multiplicity=2)
    assert energy_of(ion.createSystem(topology), positions) == pytest.approx(expected[1], rel=1e-9)
    assert energy_of(ion.createSystem(topology, charge=0, multiplicity=1), positions) == pytest.approx(
        expected[0], rel=1e-9)
    nonbonded = openmm.NonbondedForce()
    for _ in range(len(methanol)):
        nonbonded.addParticle(0, 0.1, 0)
    mm_system, everything = omm.system(methanol.get_masses(), nonbonded), list(range(len(methanol)))
    plain = MLPotential("transip", model=model)
    for interpolate in (False, True):
        mixed = plain.createMixedSystem(topology, mm_system, everything, interpolate=interpolate, charge=1, spin=2)
        assert energy_of(mixed, positions) == pytest.approx(expected[1], rel=1e-9)
    with pytest.raises(StructureError, match="charge"):
        plain.createSystem(topology, charge=3)


def test_range_and_transport(mace, methanol, omm) -> None:
    """openmm-ml asks for the range where a periodic System is mixed; the transport goes through to the force."""
    potential = MLPotential("mlip", model=mace)
    assert potential._impl.getMLLongRange() is False
    force = potential.createSystem(omm.topology(methanol.numbers), transport="python").getForce(0)
    assert isinstance(force, openmm.PythonForce)
    with pytest.raises(OptionError, match="telepathy"):
        potential.createSystem(omm.topology(methanol.numbers), transport="telepathy")

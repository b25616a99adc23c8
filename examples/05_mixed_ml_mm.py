"""Mixed ML/MM: acetylacetone described by the model, the water around it by CHARMM36's TIP3P.

    python examples/05_mixed_ml_mm.py [output folder]

Needs openmm-ml, which finds mlip by its name once mlip-md is installed (pip install "mlip-md[openmm]").
Writes start.pdb and energies.csv into the folder, by default a new temporary one.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential

from mlip.simulation.openmm_engine import topology_of
from mlip.simulation.quickstart import acetylacetone
from mlip.units import KJ_PER_MOL_PER_EV

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)

# 1. The classical part. Inside the molecule the model acts; between molecule and water, and in the water, charges and
#    Lennard-Jones do ("mechanical embedding"). So the molecule needs no bonded terms; acetylacetone.xml says what it
#    takes of CHARMM36, and from where. Yours may come from any force field that OpenMM reads.
force_field = app.ForceField("charmm36.xml", "charmm36/water.xml", str(Path(__file__).with_name("acetylacetone.xml")))

# 2. Topology of the molecule, with its bonds, then water around it.
molecule = acetylacetone()
modeller = app.Modeller(topology_of(molecule, bonds=True), molecule.positions * 0.1 * unit.nanometer)
modeller.addSolvent(force_field, model="tip3p", boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
mm_system = force_field.createSystem(modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8 * unit.nanometer)
ml_atoms = list(range(len(molecule)))
print(f"{len(ml_atoms)} ML atoms, {modeller.topology.getNumAtoms() - len(ml_atoms)} atoms of water")

# 3. openmm-ml takes the interactions inside the molecule out of the classical System and puts the model in.
potential = MLPotential("mlip", model="mace-acac", dtype="float64")
system = potential.createMixedSystem(modeller.topology, mm_system, ml_atoms, forceGroup=1)

# 4. The rest is OpenMM as usual. The water is rigid, the hydrogens of the molecule move freely: 0.5 fs.
integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtoseconds)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(modeller.topology, system, integrator)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=30)
with (folder / "start.pdb").open("w") as file:
    app.PDBFile.writeFile(modeller.topology, simulation.context.getState(positions=True).getPositions(), file)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
simulation.reporters.append(app.StateDataReporter(str(folder / "energies.csv"), 10, step=True, temperature=True))
simulation.step(100)

# 5. The model has a force group of its own, so that its energy can be read apart.
ml_energy = simulation.context.getState(energy=True, groups={1}).getPotentialEnergy()
frames, temperature = np.loadtxt(folder / "energies.csv", delimiter=",", unpack=True)
print(f"energy of the molecule: {ml_energy.value_in_unit(unit.kilojoule_per_mole) / KJ_PER_MOL_PER_EV:.4f} eV")
for now, kelvin in list(zip(frames, temperature, strict=True))[::3]:
    print(f"temperature after {now:4.0f} steps: {kelvin:.0f} K")
print(f"written: {folder}/start.pdb, energies.csv")

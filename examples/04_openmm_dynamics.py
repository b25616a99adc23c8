"""Molecular dynamics in OpenMM, with OpenMM's own Simulation, minimiser and reporters.

    python examples/04_openmm_dynamics.py [output folder]

Writes molecule.pdb, trajectory.dcd and energies.csv into the folder, by default a new temporary one.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from mlip.potentials import create_system
from mlip.simulation.quickstart import acetylacetone

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)

# 1. OpenMM describes a molecule by a topology and positions in nm. Yours may come from app.PDBFile(...).
atoms = acetylacetone()
topology = app.Topology()
residue = topology.addResidue("ACA", topology.addChain())
for i, symbol in enumerate(atoms.symbols):
    topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
positions = atoms.positions * 0.1

# 2. A System whose only interaction is the model. It has no constraints and needs no force field;
#    bonds in the topology would only tell a barostat which atoms are one molecule. A box makes it periodic.
system = create_system(topology, "mace-acac", dtype="float64")
integrator = openmm.VerletIntegrator(0.5 * unit.femtoseconds)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(positions)
print(f"platform: {simulation.context.getPlatform().getName()}")

# 3. Minimise, give the atoms a temperature, run with reporters.
simulation.minimizeEnergy(tolerance=5.0, maxIterations=50)
simulation.context.setVelocitiesToTemperature(500 * unit.kelvin, 1)
with (folder / "molecule.pdb").open("w") as file:
    app.PDBFile.writeFile(topology, simulation.context.getState(positions=True).getPositions(), file)
simulation.reporters.append(app.DCDReporter(str(folder / "trajectory.dcd"), 5))
simulation.reporters.append(app.StateDataReporter(str(folder / "energies.csv"), 5, step=True, potentialEnergy=True,
                                                  totalEnergy=True, temperature=True))
simulation.step(200)

# 4. Energy conservation: what the total energy loses or gains beside what flows to and fro.
step, potential, total, temperature = np.loadtxt(folder / "energies.csv", delimiter=",", unpack=True)
print(f"{len(step)} frames, mean temperature {temperature.mean():.0f} K")
print(f"potential energy varies by {np.ptp(potential):8.3f} kJ/mol")
print(f"total energy varies by     {np.ptp(total):8.3f} kJ/mol")
print(f"written: {folder}/molecule.pdb, trajectory.dcd, energies.csv")

"""Relax a crystal and run dynamics in OpenMM with an EquiformerV3.

    python examples/08_equiformer_v3.py [output folder] [--model NAME OR PATH] [--epochs N]

With --model any EquiformerV3: a public one such as equiformer-v3-oam (485 MB, fetched once), a checkpoint of the
published code, or a file of ours. Without, a small one is trained first, in a minute or two, on strained copper as
described by ASE's effective medium theory; that is enough for copper near its crystal. Run it twice with one folder and
the model is found there. Writes cu/ (the training run), relaxed.xyz, crystal.pdb, trajectory.dcd and energies.csv.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import openmm
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from openmm import app, unit

import mlip
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.io.files import write_structures
from mlip.potentials import create_system
from mlip.simulation import relax
from mlip.simulation.openmm_engine import openmm_box, topology_of
from mlip.training import TrainingConfig, initial_potential, split, train

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--model", help="name or path of an EquiformerV3")
arguments.add_argument("--epochs", type=int, default=120)
arguments.add_argument("--steps", type=int, default=200, help="at most, of the relaxation, and of the dynamics")
options = arguments.parse_args()
folder = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)
if options.model is None:
    torch.set_num_threads(1)  # models as small as this are fastest so


def train_copper() -> Path:
    """Train a small EquiformerV3 on strained and rattled cells of copper; return the file of the best model."""
    generator, examples = np.random.default_rng(0), []
    for _ in range(50):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + generator.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += generator.normal(0, 0.08, atoms.positions.shape)
        atoms.calc = EMT()
        examples.append(Labelled(structure_of(atoms), atoms.get_potential_energy(), atoms.get_forces()))
    start = initial_potential("equiformer_v3", examples, {"Cu": 0.0}, lmax=2, mmax=2, channels=16, num_layers=2,
                              num_heads=4, attention_hidden=8, attention_alpha=8, attention_value=4,
                              feed_forward_hidden=32, edge_channels=16, num_gaussians=16, cutoff=4.2)
    config = TrainingConfig(epochs=options.epochs, batch_size=3)
    return train(start, *split(examples, 0.1, 0), folder / "cu", config)


potential = mlip.load(options.model or train_copper())
print(potential)

# 1. Relax positions and cell of a crystal that is too large and rattled. The stress is the derivative of the energy.
crystal = bulk("Cu", a=3.68, cubic=True)
crystal.rattle(0.05, seed=1)
relaxed = relax(crystal, potential, cell=True, fmax=0.01, steps=options.steps)
side = relaxed.atoms.cell.volume ** (1 / 3)
print(f"converged: {relaxed.converged} after {relaxed.steps} steps; lattice constant {side:.3f} A (EMT: 3.590 A)")
write_structures(folder / "relaxed.xyz", [relaxed.atoms])

# 2. Dynamics at constant energy in OpenMM, periodic, from 600 K: half of it goes into the potential energy.
box = openmm_box(relaxed.atoms * (2, 2, 2))
topology = topology_of(box)
system = create_system(topology, potential)
simulation = app.Simulation(topology, system, openmm.VerletIntegrator(2 * unit.femtoseconds))
simulation.context.setPositions(box.positions * unit.angstrom)
simulation.context.setVelocitiesToTemperature(600 * unit.kelvin, 1)
with (folder / "crystal.pdb").open("w") as file:
    app.PDBFile.writeFile(topology, box.positions, file)
simulation.reporters.append(app.DCDReporter(str(folder / "trajectory.dcd"), 10))
simulation.reporters.append(app.StateDataReporter(str(folder / "energies.csv"), 10, step=True, potentialEnergy=True,
                                                  totalEnergy=True, temperature=True))
simulation.step(options.steps)

step, potential_energy, total, temperature = np.loadtxt(folder / "energies.csv", delimiter=",", unpack=True)
print(f"{len(step)} frames of {len(box)} atoms, mean temperature {temperature.mean():.0f} K")
print(f"potential energy varies by {np.ptp(potential_energy):8.3f} kJ/mol")
print(f"total energy varies by     {np.ptp(total):8.3f} kJ/mol")

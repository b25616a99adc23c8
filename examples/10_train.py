"""Train a model from nothing, look at its card, and simulate with it in OpenMM.

    python examples/10_train.py [output folder] [--epochs N] [--seeds N ...] [--steps N]

Ten minutes at most on two cores. The data are crystals of copper, strained and rattled, with energies, forces and
stress of ASE's effective medium theory in the place of a reference calculation. Run it twice with one folder and
training goes on where it was. Writes train.xyz, test.xyz, recipe.toml, run/ (a committee with cards and pictures),
trajectory.dcd and crystal.pdb.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import openmm
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from openmm import app, unit

import mlip
from mlip.io.dataset import read_labelled
from mlip.potentials import create_system
from mlip.simulation.openmm_engine import openmm_box, topology_of
from mlip.training import Recipe, evaluate_on, run, spread_against_error
from mlip.verify.trained import document

RECIPE = """
[data]
train = ["train.xyz"]
test = ["test.xyz"]

[model]
family = "mace"
tensor_product = "gaunt_full"
channels = 16
edge_lmax = 2
cutoff = 4.5

[training]
batch_size = 2
forces_weight = 100
stress_weight = 1e4

[[training.stages]]
epochs = {epochs}
energy_weight = 100

[[training.stages]]
epochs = {last}
learning_rate = 0.001
energy_weight = 1e4

[card]
name = "gaunt-mace-copper"
licence = "MIT"
training_data = "strained and rattled copper, ASE's effective medium theory"
recommended = "trying mlip-md"
"""

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--epochs", type=int, default=50)
arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the members of the committee")
arguments.add_argument("--steps", type=int, default=500, help="of the simulation, 2 fs each")
options = arguments.parse_args()
folder = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # models as small as this are fastest so


def crystals(count: int, seed: int) -> list[Atoms]:
    """Return copper, strained and rattled, with labels."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True) * (2, 2, 1)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + generator.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += generator.normal(0, generator.uniform(0.02, 0.15), atoms.positions.shape)
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces(),
                                           stress=atoms.get_stress())
        found.append(atoms)
    return found


# 1. Data and recipe. Another program would have written the data; what it calls its labels is said in the recipe.
if not (folder / "recipe.toml").is_file():
    write(folder / "train.xyz", crystals(80, seed=0), format="extxyz")
    write(folder / "test.xyz", crystals(20, seed=1), format="extxyz")
    (folder / "recipe.toml").write_text(RECIPE.format(epochs=options.epochs, last=max(options.epochs // 5, 1)))

# 2. Train, as `mlip train recipe.toml -o run --seeds 0 1` does. The report says what is trained on what.
recipe = Recipe.read(folder / "recipe.toml")
models = [document(recipe, folder / "run", best) for best in run(recipe, folder / "run", seeds=options.seeds)]
print(f"\nmodels: {', '.join(map(str, models))}; the first has the card\n")
print(models[0].with_suffix(".card.md").read_text())

# 3. How wrong is it where it was not trained, and would the committee have known?
test = read_labelled(folder / "test.xyz")
print(evaluate_on(mlip.load(models[0]), test))
if len(models) > 1:
    print(spread_against_error(mlip.Committee(models), test))

# 4. Simulate it: a crystal at 300 K in OpenMM.
box = openmm_box(bulk("Cu", a=3.59, cubic=True) * (4, 4, 4))
topology = topology_of(box)
system = create_system(topology, models[0])
integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 2 * unit.femtosecond)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(box.positions * unit.angstrom)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
with (folder / "crystal.pdb").open("w") as file:
    app.PDBFile.writeFile(topology, box.positions, file)
simulation.reporters.append(app.DCDReporter(str(folder / "trajectory.dcd"), 50))
simulation.reporters.append(app.StateDataReporter(str(folder / "energies.csv"), 10, step=True, potentialEnergy=True,
                                                  temperature=True))
simulation.step(options.steps)
temperature = np.loadtxt(folder / "energies.csv", delimiter=",", usecols=2, ndmin=1)
print(f"{options.steps} steps of {len(box)} atoms; mean temperature of the second half "
      f"{temperature[len(temperature) // 2:].mean():.0f} K")

"""A torsion profile in water: acetylacetone by the model, CHARMM36's TIP3P water around it, beside the same in vacuum.

    python examples/11_mixed_solvent.py [output folder] [--steps N] [--angles DEGREES ...]

Three minutes at most on two cores. The torsion O=C-C=C is held near one angle after another by a spring; the mean pull
on the spring is the slope of the free energy ("umbrella integration": Kaestner and Thiel, J. Chem. Phys. 123, 144104
(2005)). Runs as short as these show the method: for science take a hundred times as many steps.
Needs openmm-ml (pip install "mlip-md[openmm]"). Writes start.pdb, profile.csv and profile.png.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import openmm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from openmm import app, unit
from openmmml import MLPotential

from mlip.simulation.openmm_engine import topology_of
from mlip.simulation.quickstart import acetylacetone

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--steps", type=int, default=1000, help="of 0.5 fs at each angle, after a quarter more")
arguments.add_argument("--angles", type=float, nargs="+", default=[0, 10, 20, 30, 40], help="degrees, from 0 upwards")
options = arguments.parse_args()
folder = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # a molecule as small as this is fastest so

TORSION = (5, 2, 1, 0)  # O=C-C=C
SPRING = 400.0  # kJ/mol/rad^2
EVERY = 5  # steps between two looks at the torsion


def torsion(positions: NDArray[np.float64]) -> float:
    """Return the torsion, rad."""
    a, b, c, d = positions[list(TORSION)]
    axis = (c - b) / np.linalg.norm(c - b)
    first, second = np.cross(axis, a - b), np.cross(axis, d - c)
    return float(np.arctan2(np.dot(np.cross(first, second), axis), np.dot(first, second)))


def slopes(topology: app.Topology, system: openmm.System, positions: unit.Quantity) -> NDArray[np.float64]:
    """Return the slope of the free energy at each angle and its standard error, [angles, 2] in kJ/mol/rad."""
    spring = openmm.CustomTorsionForce("0.5*spring*d^2; d=atan2(sin(theta-at), cos(theta-at))")
    spring.addGlobalParameter("spring", SPRING)
    spring.addGlobalParameter("at", 0.0)
    spring.addTorsion(*TORSION)
    system.addForce(spring)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtoseconds)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator)
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=30)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    found = []
    for angle in np.radians(options.angles):  # each begins where the one before ended
        simulation.context.setParameter("at", angle)
        simulation.step(options.steps // 4)
        pull = []
        for _ in range(max(2, options.steps // EVERY)):
            simulation.step(EVERY)
            now = simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
            pull.append(SPRING * (angle - torsion(now)))
        blocks = [block.mean() for block in np.array_split(np.array(pull), min(5, len(pull)))]
        found.append((np.mean(pull), np.std(blocks, ddof=1) / np.sqrt(len(blocks))))
    return np.array(found)


# 1. Vacuum: the molecule alone. Water: example 05 says how it gets there, and what it feels of the molecule.
molecule = acetylacetone()
topology, start = topology_of(molecule, bonds=True), molecule.positions * 0.1 * unit.nanometer
force_field = app.ForceField("charmm36.xml", "charmm36/water.xml", str(Path(__file__).with_name("acetylacetone.xml")))
modeller = app.Modeller(topology, start)
modeller.addSolvent(force_field, model="tip3p", boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
classical = force_field.createSystem(modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8 * unit.nanometer)
potential = MLPotential("mlip", model="mace-acac")
mixed = potential.createMixedSystem(modeller.topology, classical, list(range(len(molecule))))
with (folder / "start.pdb").open("w") as file:
    app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
print(f"{len(molecule)} ML atoms, {modeller.topology.getNumAtoms() - len(molecule)} atoms of water")

# 2. Slopes, and their integrals: the profiles.
vacuum = slopes(topology, potential.createSystem(topology), start)
water = slopes(modeller.topology, mixed, modeller.positions)
angles = np.radians(options.angles)


def integral(slope: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral of a function from the first angle to each, by trapezia."""
    return np.append(0.0, np.cumsum(np.diff(angles) * (slope[1:] + slope[:-1]) / 2))


def profile(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the free energy from the first angle on and its standard error, [angles, 2] in kJ/mol."""
    shares = [integral(error * one) for error, one in zip(found[:, 1], np.eye(len(angles)), strict=True)]
    return np.column_stack([integral(found[:, 0]), np.linalg.norm(shares, axis=0)])


columns = np.column_stack([options.angles, profile(vacuum), profile(water)])
np.savetxt(folder / "profile.csv", columns, "%.4f", ",",
           header="angle (degrees),vacuum (kJ/mol),error,water (kJ/mol),error", comments="")
figure = Figure(figsize=(5, 4), layout="constrained")
FigureCanvasAgg(figure)
axes = figure.subplots()
for name, at in (("vacuum", 1), ("water", 3)):
    axes.errorbar(columns[:, 0], columns[:, at], columns[:, at + 1], label=name, capsize=3)
axes.set(xlabel="torsion O=C-C=C (degrees)", ylabel="free energy (kJ/mol)")
axes.legend()
figure.savefig(folder / "profile.png", dpi=150)
for angle, a, da, b, db in columns:
    print(f"{angle:5.0f} degrees: in vacuum {a:6.1f} +- {da:.1f} kJ/mol, in water {b:6.1f} +- {db:.1f}")
print(f"written: {folder}/start.pdb, profile.csv, profile.png")

"""Molecular dynamics in ASE: constant energy, then a thermostat.

    python examples/03_ase_dynamics.py [output folder]

Writes nve.traj, nvt.xyz, nvt.topology.pdb and nvt.final.xyz into the folder, by default a new temporary one.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import units
from ase.io import Trajectory
from ase.md.verlet import VelocityVerlet

import mlip
from mlip.calculators import MLIPCalculator
from mlip.simulation import Plan, relax, run_ase, with_velocities
from mlip.simulation.quickstart import acetylacetone

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)
potential = mlip.load("mace-acac")
relaxed = relax(acetylacetone(), potential).atoms

# 1. ASE's own way. The calculator keeps its neighbour list for many steps (option `skin`, in A).
atoms = with_velocities(relaxed, temperature=600, seed=0)
atoms.calc = MLIPCalculator(potential)
dynamics = VelocityVerlet(atoms, 0.5 * units.fs)  # hydrogen vibrates in 10 fs: 0.5 fs is safe, 1 fs is not
total = []
dynamics.attach(lambda: total.append(atoms.get_total_energy()), interval=5)
with Trajectory(folder / "nve.traj", "w", atoms) as trajectory:
    dynamics.attach(trajectory.write, interval=5)
    dynamics.run(200)

# Without a thermostat the total energy stays the same, if forces are the derivative of the energy.
spread = 1000 * (np.max(total) - np.min(total)) / len(atoms)
print(f"NVE: {len(total)} frames, the total energy varies by {spread:.3f} meV/atom")

# 2. The same in one call: a plan in, a record out. Here with a thermostat (Langevin).
plan = Plan(steps=200, timestep=0.5, ensemble="nvt", temperature=300, friction=20, every=10)
record = run_ase(relaxed, potential, plan, trajectory=folder / "nvt.xyz")
print(f"NVT: {len(record.time)} frames, mean temperature of the second half "
      f"{record.temperature[len(record.temperature) // 2:].mean():.0f} K (a small molecule fluctuates a lot)")
print(f"     {record.steps_per_second:.0f} steps per second")

# Extended XYZ with a PDB topology beside it: `mdtraj.load("nvt.xyz", top="nvt.topology.pdb")` reads both. The last
# structure with its momenta is in nvt.final.xyz: a run that starts from it goes on.
print(f"written: {folder}/nvt.xyz, nvt.topology.pdb, nvt.final.xyz")

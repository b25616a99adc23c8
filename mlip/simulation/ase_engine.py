"""Molecular dynamics in ASE."""

from __future__ import annotations

import time

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from mlip.calculators import MLIPCalculator
from mlip.checkpoints import Potential
from mlip.simulation.record import Plan, Record, Recorder


def with_velocities(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """Return a copy with Maxwell-Boltzmann velocities at a temperature in K, total momentum zero."""
    moving = atoms.copy()
    generator = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(moving, temperature_K=temperature, rng=generator)
    Stationary(moving)
    return moving


def run_ase(atoms: Atoms, potential: Potential, plan: Plan, progress: bool = False) -> Record:
    """Run molecular dynamics in ASE.

    Args:
        atoms: start. Momenta are kept if there are any, else drawn at `plan.temperature`.
        potential: the model.
        plan: what to do.
        progress: whether to show a bar.

    Raises:
        NonFiniteError: the dynamics ran into NaN or infinity.
    """
    moving = atoms.copy() if atoms.has("momenta") else with_velocities(atoms, plan.temperature, plan.seed)
    moving.calc = MLIPCalculator(potential)
    step = plan.timestep * units.fs
    if plan.ensemble == "nve":
        dynamics = VelocityVerlet(moving, step)
    else:
        dynamics = Langevin(moving, step, temperature_K=plan.temperature, friction=plan.friction / (1000 * units.fs),
                            rng=np.random.default_rng(plan.seed))
    recorder = Recorder(moving)

    def record() -> None:
        recorder.add(dynamics.nsteps * plan.timestep, moving.get_potential_energy(), moving.get_kinetic_energy(),
                     moving.positions.copy(), moving.cell.array.copy())

    start = time.perf_counter()
    with tqdm(total=plan.steps, desc="ASE", unit="step", disable=not progress) as bar:
        dynamics.attach(record, interval=plan.every)
        dynamics.attach(bar.update, plan.every, plan.every)
        dynamics.run(plan.steps)
    return recorder.finish(moving, 3 * len(moving) - 3, time.perf_counter() - start, plan.steps)

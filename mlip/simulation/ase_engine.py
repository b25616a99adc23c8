"""Molecular dynamics in ASE."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from mlip.calculators import CommitteeCalculator, MLIPCalculator
from mlip.checkpoints import Committee, Potential
from mlip.io.ase import require_atoms
from mlip.simulation.record import Plan, Record, Recorder
from mlip.simulation.stop_rule import StopRule


def with_velocities(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """Return a copy with Maxwell-Boltzmann velocities at a temperature in K.

    The total momentum is zero, unless there are constraints; those are kept to.
    """
    moving = atoms.copy()
    masses = moving.get_masses()[:, None]
    width = np.sqrt(masses * units.kB * temperature)
    momenta = np.random.default_rng(seed).normal(size=(len(moving), 3)) * width
    if not moving.constraints:
        momenta -= masses * momenta.sum(axis=0) / max(masses.sum(), 1e-300)
    moving.set_momenta(momenta)
    return moving


def moving_copy(atoms: Atoms, plan: Plan) -> Atoms:
    """Return a copy with its momenta or, where all are zero, with velocities drawn at `plan.temperature`."""
    return atoms.copy() if atoms.get_momenta().any() else with_velocities(atoms, plan.temperature, plan.seed)


def run_ase(atoms: Atoms, potential: Potential | Committee, plan: Plan, *, trajectory: str | Path | None = None,
            progress: bool = False, rule: StopRule | None = None) -> Record:
    """Run molecular dynamics in ASE.

    The thermostat keeps the centre of mass where it is, unless there are constraints.

    Args:
        atoms: start. Momenta are kept unless all are zero, else drawn at `plan.temperature`. Its constraints hold.
        potential: the model; of a committee the mean moves the atoms, and each frame says its largest spread.
        plan: what to do.
        trajectory: file for the frames, written as they come; see `outputs_of` for the files beside it.
        progress: whether to show a bar.
        rule: checked at every step of a committee.

    Raises:
        StructureError: no atoms.
        OptionError: a trajectory that cannot be written, or a rule without committee.
        NonFiniteError: the dynamics ran into NaN or infinity.
        UncertaintyError: the rule stopped the run.
    """
    require_atoms(atoms)
    moving = moving_copy(atoms, plan)
    calculator = CommitteeCalculator(potential) if isinstance(potential, Committee) else MLIPCalculator(potential)
    moving.calc = calculator
    constraints = moving.constraints
    dynamics = _dynamics(moving, plan)
    free = moving.get_number_of_degrees_of_freedom() - (0 if moving.constraints else 3)
    recorder = Recorder(moving, free, trajectory)

    def record() -> None:
        recorder.add(dynamics.nsteps * plan.timestep, moving.get_potential_energy(), moving.get_kinetic_energy(),
                     moving.positions.copy(), moving.cell.array.copy(),
                     calculator.predict(moving).forces_std_max if isinstance(calculator, CommitteeCalculator) else None)

    start = time.perf_counter()
    with tqdm(total=plan.steps, desc="ASE", unit="step", disable=not progress) as bar:
        dynamics.attach(record, interval=plan.every)
        if rule is not None:
            rule.watch(dynamics)
        dynamics.attach(lambda: bar.update(dynamics.nsteps - bar.n), interval=plan.every)
        dynamics.run(plan.steps)
    seconds = time.perf_counter() - start
    moving.set_constraint(constraints)
    return recorder.finish(moving, plan, moving.get_potential_energy(), seconds)


def _dynamics(moving: Atoms, plan: Plan) -> MolecularDynamics:
    step = plan.timestep * units.fs
    if plan.ensemble == "nve":
        return VelocityVerlet(moving, step)
    if not moving.constraints:
        moving.set_constraint(FixCom())
    # ASE 3.28 warns of its own way to hold the centre of mass and will remove the option.
    options = {"fixcm": False} if "fixcm" in inspect.signature(Langevin).parameters else {}
    return Langevin(moving, step, temperature_K=plan.temperature, friction=plan.friction / (1000 * units.fs),
                    rng=np.random.default_rng(plan.thermostat_seed(moving)), **options)

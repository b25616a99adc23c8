"""Molecular dynamics in ASE."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from mlip.calculators import CommitteeCalculator, MLIPCalculator
from mlip.checkpoints import Committee, Potential
from mlip.io.ase import require_atoms
from mlip.simulation.barostat import EVERY, Barostat
from mlip.simulation.journal import Journal, place
from mlip.simulation.plan import Plan
from mlip.simulation.record import Record, Recorder
from mlip.simulation.restart import identity_of
from mlip.simulation.safety import check_temperature
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
            progress: bool = False, rule: StopRule | None = None, resume: bool = False,
            dispersion: str | None = None) -> Record:
    """Run molecular dynamics in ASE.

    The thermostat keeps the centre of mass where it is, unless there are constraints.

    Args:
        atoms: start. Momenta are kept unless all are zero, else drawn at `plan.temperature`. Its constraints hold.
        potential: the model; of a committee the mean moves the atoms, and each frame says its largest spread.
        plan: what to do.
        trajectory: file for the frames, written as they come; see `outputs_of` for its formats and the files beside it.
        progress: whether to show a bar.
        rule: checked at every step of a committee.
        resume: whether to go on from the checkpoint beside the trajectory, if there is one, rather than begin anew. On
            a CPU the files are then those of a run that was never interrupted, byte for byte (HDF5: the same numbers).
            Of a finished run nothing is done again.
        dispersion: D3 to be added to the model, such as `"d3bj:pbe"`, see `MLIPCalculator`.

    Raises:
        StructureError: no atoms, atoms that the model cannot take, a pressure for those that are not periodic or have
            constraints, or dynamics that exploded.
        OptionError: no such dispersion, a trajectory that cannot be written, or a rule without committee.
        CheckpointError: the checkpoint is damaged or of another run.
        NonFiniteError: the dynamics ran into NaN or infinity.
        CloseContactError: two atoms came closer than real ones do.
        TemperatureError: it became hotter than the plan allows.
        UncertaintyError: the rule stopped the run.
    """
    calculator = _calculator(potential, atoms, dispersion)
    moving = moving_copy(atoms, plan)
    barostat = Barostat(moving, potential, plan, dispersion) if plan.ensemble == "npt" else None
    if barostat is not None:
        moving = barostat.start
    start = moving.copy()
    moving.calc = calculator
    run = ASERun(moving, plan, barostat)
    free = start.get_number_of_degrees_of_freedom() - (0 if start.constraints else 3)
    identity = identity_of("ase", atoms, potential, plan, rule, dispersion)
    journal = Journal(start, free, plan, trajectory, identity, rule)
    finished = journal.begin(run, resume)
    if finished is not None:
        return finished

    def record() -> None:
        journal.recorder.add(run.step, moving.get_potential_energy(), moving.get_kinetic_energy(),
                             moving.positions.copy(), moving.cell.array.copy(),
                             calculator.predict(moving).forces_std_max
                             if isinstance(calculator, CommitteeCalculator) else None)

    with journal.running(run, "ASE", progress) as bar:
        run.dynamics.attach(lambda: run.after_step(journal.recorder))
        run.dynamics.attach(record, interval=plan.every)
        if rule is not None:
            rule.watch(run.dynamics)
        run.dynamics.attach(lambda: journal.keep(run), interval=plan.every)
        run.dynamics.attach(lambda: bar.show(run.step))
        run.dynamics.run(plan.steps - journal.begun)
    moving.set_constraint(start.constraints)
    return journal.finish(moving, moving.get_potential_energy())


class ASERun:
    """The state of a run in ASE.

    Attributes:
        atoms: that move.
        dynamics: that moves them.
    """

    def __init__(self, atoms: Atoms, plan: Plan, barostat: Barostat | None) -> None:
        self.atoms, self.barostat = atoms, barostat
        self.random = np.random.default_rng(plan.thermostat_seed(atoms))
        self.dynamics = _dynamics(atoms, plan, self.random)
        self._plan = plan

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.dynamics.nsteps)

    def after_step(self, recorder: Recorder) -> None:
        """Let the barostat act, and see whether all is well.

        Raises:
            TemperatureError: it is too hot.
        """
        if self.barostat is not None and self.step and self.step % EVERY == 0:
            changed = self.barostat.attempt(self.atoms.positions.copy(), self.atoms.cell.array.copy())
            if changed is not None:
                self.atoms.set_positions(changed[0], apply_constraint=False)
                self.atoms.set_cell(changed[1])
        momenta = self.atoms.get_momenta()
        kinetic = (momenta * momenta).sum(axis=1) / self.atoms.get_masses() / 2
        check_temperature(kinetic, self.atoms, self._plan, recorder)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return arrays and JSON-compatible values from which `load` goes on."""
        arrays = {"positions": self.atoms.positions.copy(), "momenta": self.atoms.get_momenta(),
                  "cell": self.atoms.cell.array.copy()}
        return arrays, {"random": self.random.bit_generator.state,
                        "barostat": None if self.barostat is None else self.barostat.state()}

    def load(self, step: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Go on from what `save` returned."""
        self.dynamics.nsteps = step
        place(self.atoms, **arrays)
        self.random.bit_generator.state = state["random"]
        if self.barostat is not None:
            self.barostat.restore(state["barostat"])


def _calculator(potential: Potential | Committee, atoms: Atoms,
                dispersion: str | None) -> CommitteeCalculator | MLIPCalculator:
    """Return a calculator for dynamics, once it is known that it can take these atoms."""
    structure = require_atoms(atoms)
    for member in potential.members if isinstance(potential, Committee) else (potential,):
        member.check([structure])
    calculator = (CommitteeCalculator(potential, dispersion=dispersion) if isinstance(potential, Committee)
                  else MLIPCalculator(potential, dispersion=dispersion))
    calculator.refuse_contacts = True
    return calculator


def _dynamics(moving: Atoms, plan: Plan, random: np.random.Generator) -> MolecularDynamics:
    step = plan.timestep * units.fs
    if plan.ensemble == "nve":
        return VelocityVerlet(moving, step)
    if not moving.constraints:
        moving.set_constraint(FixCom())
    # ASE 3.28 warns of its own way to hold the centre of mass and will remove the option.
    options = {"fixcm": False} if "fixcm" in inspect.signature(Langevin).parameters else {}
    return Langevin(moving, step, temperature_K=plan.temperature, friction=plan.friction / (1000 * units.fs),
                    rng=random, **options)

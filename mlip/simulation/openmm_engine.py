"""Molecular dynamics in OpenMM."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from tqdm import tqdm

from mlip import errors
from mlip.checkpoints import Committee, Potential
from mlip.errors import MissingDependencyError, MLIPError, NonFiniteError, OptionError, StructureError
from mlip.io.ase import require_atoms, structure_of
from mlip.potentials import create_system
from mlip.simulation.ase_engine import moving_copy
from mlip.simulation.record import Plan, Record, Recorder
from mlip.simulation.spread_reporter import SpreadReporter
from mlip.simulation.stop_rule import StopRule
from mlip.units import KJ_PER_MOL_PER_EV, NM_PER_ANGSTROM

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology


def openmm_box(atoms: Atoms) -> Atoms:
    """Return a copy whose cell OpenMM accepts: lower triangular and reduced, atoms rotated with it.

    A left-handed cell has its first two vectors exchanged. Energies stay the same.

    Raises:
        StructureError: periodic in some directions only.
    """
    if not _periodic(atoms):
        return atoms.copy()
    turned = atoms.copy()
    if turned.cell.handedness < 0:
        turned.set_cell(turned.cell[[1, 0, 2]], scale_atoms=False)
    lower, rotation = turned.cell.standard_form()
    vectors = lower.array.copy()
    for i, j in ((2, 1), (2, 0), (1, 0)):
        vectors[i] -= vectors[j] * np.round(vectors[i, j] / vectors[j, j])
    turned.positions = turned.positions @ rotation.T
    if turned.has("momenta"):
        turned.set_momenta(turned.get_momenta() @ rotation.T)
    turned.set_cell(vectors, scale_atoms=False)
    return turned


def _periodic(atoms: Atoms) -> bool:
    """Return whether there is a box; OpenMM knows none that is periodic in some directions only."""
    if atoms.pbc.any() and not atoms.pbc.all():
        raise StructureError(f"OpenMM knows periodic boxes in all directions or none; pbc is {atoms.pbc.tolist()}")
    return bool(atoms.pbc.all())


def _openmm() -> Any:
    try:
        import openmm.app
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
    return openmm


def topology_of(atoms: Atoms) -> Topology:
    """Return an OpenMM topology: one residue with all atoms, without bonds, with the box.

    Raises:
        MissingDependencyError: OpenMM is not installed.
        StructureError: periodic in some directions only, or a cell that OpenMM does not accept.
    """
    app = _openmm().app
    periodic = _periodic(atoms)
    topology = app.Topology()
    residue = topology.addResidue("SYS", topology.addChain())
    for i, z in enumerate(atoms.numbers):
        topology.addAtom(f"{atoms.symbols[i]}{i}", app.Element.getByAtomicNumber(int(z)), residue)
    if periodic:
        try:
            topology.setPeriodicBoxVectors((atoms.cell.array * NM_PER_ANGSTROM).tolist())
        except ValueError as error:
            raise StructureError(f"OpenMM does not accept the cell {atoms.cell.tolist()}: {error} Use the atoms that "
                                 "mlip.simulation.openmm_engine.openmm_box(atoms) returns, also for their "
                                 "positions") from error
    return topology


def run_openmm(atoms: Atoms, potential: Potential | Committee, plan: Plan, *, trajectory: str | Path | None = None,
               progress: bool = False, platform: str | None = None, rule: StopRule | None = None) -> Record:
    """Run molecular dynamics in OpenMM.

    The integrators of OpenMM keep velocities half a step behind the positions; for NVE they are shifted at the
    start and at the end, so that the run is the velocity Verlet run of `run_ase`. In a periodic box the frames
    are turned as `openmm_box` says.

    Args:
        atoms: start. Momenta are kept unless all are zero, else drawn at `plan.temperature`. Masses are
            theirs; charge, spin and head are read from `atoms.info`.
        potential: the model; of a committee the mean moves the atoms, and each frame says its largest spread.
        plan: what to do.
        trajectory: file for the frames, written as they come; see `outputs_of` for the files beside it.
        progress: whether to show a bar.
        platform: OpenMM platform, e.g. `"CPU"`; by default OpenMM's choice.
        rule: checked at the frames of a committee, which cost one more evaluation each.

    Raises:
        MissingDependencyError: OpenMM is not installed.
        StructureError: no atoms, periodic in one or two directions, or with constraints.
        OptionError: no such platform, a trajectory that cannot be written, or a rule without committee.
        NonFiniteError: the dynamics ran into NaN or infinity.
        UncertaintyError: the rule stopped the run.
    """
    require_atoms(atoms)
    if rule is not None and not isinstance(potential, Committee):
        raise OptionError("a stop rule needs a committee; one model was given")
    if atoms.constraints:
        raise StructureError(f"OpenMM would not keep to the {len(atoms.constraints)} ASE constraint(s) of these "
                             "atoms; drop them with atoms.set_constraint(), or run in ASE")
    moving = openmm_box(moving_copy(atoms, plan))
    context = _context(moving, potential, plan, platform)
    recorder = Recorder(moving, 3 * len(moving) - 3, trajectory)
    spread = SpreadReporter(rule, potential, moving, plan.every) if isinstance(potential, Committee) else None
    start = time.perf_counter()
    try:
        _shift_velocities(context, moving, plan, -0.5)
        _integrate(context, recorder, plan, progress, spread)
        seconds = time.perf_counter() - start
        _shift_velocities(context, moving, plan, 0.5)
        state = context.getState(energy=True, positions=True, velocities=True)
    except _openmm().OpenMMException as error:
        typed = _typed(str(error), context.getStepCount(), plan)
        if typed is None:
            raise
        raise typed from error
    moving.positions = state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM
    moving.set_velocities(state.getVelocities(asNumpy=True)._value / NM_PER_ANGSTROM / (1000 * units.fs))
    return recorder.finish(moving, plan, state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV, seconds)


def _integrate(context: openmm.Context, recorder: Recorder, plan: Plan, progress: bool,
               spread: SpreadReporter | None) -> None:
    """Take all steps of the plan and record every so many."""
    _record(context, recorder, plan, 0, spread)
    done = 0
    with tqdm(total=plan.steps, desc="OpenMM", unit="step", disable=not progress) as bar:
        while done < plan.steps:
            chunk = min(plan.every, plan.steps - done)
            context.getIntegrator().step(chunk)
            done += chunk
            bar.update(chunk)
            if done % plan.every == 0:
                _record(context, recorder, plan, done, spread)


def _typed(text: str, done: int, plan: Plan) -> MLIPError | None:
    """Return the error that a text of OpenMM, which keeps no types, speaks of; None if it is none of ours."""
    if re.search(r"nonfinite|\bnan\b", text, re.IGNORECASE):
        return NonFiniteError(f"OpenMM stopped after step {done}: {text}; relax the structure first, or use a "
                              f"shorter time step, now {plan.timestep} fs")
    named = re.search(r"\b(\w+Error): ", text)
    kind = getattr(errors, named[1], None) if named else None
    if named is None or not isinstance(kind, type) or not issubclass(kind, MLIPError):
        return None
    return kind(f"OpenMM stopped after step {done}: {text[named.end():]}")


def _context(atoms: Atoms, potential: Potential | Committee, plan: Plan, platform: str | None) -> openmm.Context:
    openmm = _openmm()
    known = structure_of(atoms)
    system = create_system(topology_of(atoms), potential, charge=known.charge, spin=known.spin, head=known.head,
                           remove_cm_motion=plan.ensemble == "nvt")
    for i, mass in enumerate(atoms.get_masses()):
        system.setParticleMass(i, mass)
    step = plan.timestep / 1000
    integrator: Any = openmm.VerletIntegrator(step)
    if plan.ensemble == "nvt":
        integrator = openmm.LangevinMiddleIntegrator(plan.temperature, plan.friction, step)
        integrator.setRandomNumberSeed(plan.thermostat_seed(atoms))
    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if platform is not None and platform not in names:
        raise OptionError(f"OpenMM has no platform {platform!r} here; available: {', '.join(names)}")
    chosen = [openmm.Platform.getPlatformByName(platform)] if platform else []
    context = openmm.Context(system, integrator, *chosen)
    context.setPositions(atoms.positions * NM_PER_ANGSTROM)
    context.setVelocities(atoms.get_velocities() * (1000 * units.fs) * NM_PER_ANGSTROM)
    return context


def _shift_velocities(context: openmm.Context, atoms: Atoms, plan: Plan, steps: float) -> None:
    """Move the velocities of an NVE run by some steps at constant force; the thermostat needs no such care."""
    if plan.ensemble != "nve":
        return
    state = context.getState(velocities=True, forces=True)
    change = state.getForces(asNumpy=True)._value / atoms.get_masses()[:, None] * (steps * plan.timestep / 1000)
    context.setVelocities(state.getVelocities(asNumpy=True)._value + change)


def _record(context: openmm.Context, recorder: Recorder, plan: Plan, step: int, spread: SpreadReporter | None) -> None:
    state = context.getState(energy=True, positions=True)
    prediction = None if spread is None else spread.predict(state)
    recorder.add(step * plan.timestep, state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV,
                 state.getKineticEnergy()._value / KJ_PER_MOL_PER_EV,
                 state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM,
                 state.getPeriodicBoxVectors(asNumpy=True)._value / NM_PER_ANGSTROM
                 if recorder.periodic else np.zeros((3, 3)),
                 None if prediction is None else prediction.forces_std_max)
    if spread is not None and spread.rule is not None and prediction is not None:
        spread.rule.check(step, spread.atoms, prediction)

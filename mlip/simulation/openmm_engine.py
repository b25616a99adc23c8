"""Molecular dynamics in OpenMM."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from tqdm import tqdm

from mlip.checkpoints import Potential
from mlip.errors import MissingDependencyError, NonFiniteError, OptionError, StructureError
from mlip.io.ase import structure_of
from mlip.potentials import create_system
from mlip.simulation.ase_engine import with_velocities
from mlip.simulation.record import Plan, Record, Recorder
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
    if not atoms.pbc.any():
        return atoms.copy()
    if not atoms.pbc.all():
        raise StructureError(f"OpenMM knows periodic boxes in all directions or none; pbc is {atoms.pbc.tolist()}")
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


def _openmm() -> Any:
    try:
        import openmm.app
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
    return openmm


def topology_of(atoms: Atoms) -> Topology:
    """Return an OpenMM topology: one residue with all atoms, without bonds, with the box."""
    app = _openmm().app
    topology = app.Topology()
    residue = topology.addResidue("SYS", topology.addChain())
    for i, z in enumerate(atoms.numbers):
        topology.addAtom(f"{atoms.symbols[i]}{i}", app.Element.getByAtomicNumber(int(z)), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors((atoms.cell.array * NM_PER_ANGSTROM).tolist())
    return topology


def run_openmm(atoms: Atoms, potential: Potential, plan: Plan, progress: bool = False,
               platform: str | None = None) -> Record:
    """Run molecular dynamics in OpenMM.

    The integrators of OpenMM keep velocities half a step behind the positions; for NVE they are shifted at the
    start and at the end, so that the run is the velocity Verlet run of `run_ase`. In a periodic box the frames
    are turned as `openmm_box` says.

    Args:
        atoms: start. Momenta are kept if there are any, else drawn at `plan.temperature`. Masses are
            theirs; charge, spin and head are read from `atoms.info`.
        potential: the model.
        plan: what to do.
        progress: whether to show a bar.
        platform: OpenMM platform, e.g. `"CPU"`; by default OpenMM's choice.

    Raises:
        MissingDependencyError: OpenMM is not installed.
        StructureError: periodic in one or two directions, or with constraints.
        OptionError: no such platform.
        NonFiniteError: the dynamics ran into NaN or infinity.
    """
    if atoms.constraints:
        raise StructureError(f"OpenMM would not keep to the {len(atoms.constraints)} ASE constraint(s) of these "
                             "atoms; drop them with atoms.set_constraint(), or run in ASE")
    moving = openmm_box(atoms if atoms.has("momenta") else with_velocities(atoms, plan.temperature, plan.seed))
    openmm = _openmm()
    context, integrator = _context(moving, potential, plan, platform)
    recorder = Recorder(moving)
    start, done = time.perf_counter(), 0
    try:
        _shift_velocities(context, moving, plan, -0.5)
        _record(context, recorder, 0.0)
        with tqdm(total=plan.steps, desc="OpenMM", unit="step", disable=not progress) as bar:
            while done < plan.steps:
                chunk = min(plan.every, plan.steps - done)
                integrator.step(chunk)
                done += chunk
                bar.update(chunk)
                if done % plan.every == 0:
                    _record(context, recorder, done * plan.timestep)
        seconds = time.perf_counter() - start
        _shift_velocities(context, moving, plan, 0.5)
    except openmm.OpenMMException as error:
        raise NonFiniteError(f"OpenMM stopped after step {done}: {error}; relax the structure first, or use a "
                             f"shorter time step, now {plan.timestep} fs") from error
    final = moving.copy()
    state = context.getState(positions=True, velocities=True)
    final.positions = state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM
    final.set_velocities(state.getVelocities(asNumpy=True)._value / NM_PER_ANGSTROM / (1000 * units.fs))
    return recorder.finish(final, 3 * len(final) - 3, seconds, plan.steps)


def _context(atoms: Atoms, potential: Potential, plan: Plan,
             platform: str | None) -> tuple[openmm.Context, openmm.Integrator]:
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
        integrator.setRandomNumberSeed(plan.seed + 1)
    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if platform is not None and platform not in names:
        raise OptionError(f"OpenMM has no platform {platform!r} here; available: {', '.join(names)}")
    chosen = [openmm.Platform.getPlatformByName(platform)] if platform else []
    context = openmm.Context(system, integrator, *chosen)
    context.setPositions(atoms.positions * NM_PER_ANGSTROM)
    context.setVelocities(atoms.get_velocities() * (1000 * units.fs) * NM_PER_ANGSTROM)
    return context, integrator


def _shift_velocities(context: openmm.Context, atoms: Atoms, plan: Plan, steps: float) -> None:
    """Move the velocities of an NVE run by some steps at constant force; the thermostat needs no such care."""
    if plan.ensemble != "nve":
        return
    state = context.getState(velocities=True, forces=True)
    change = state.getForces(asNumpy=True)._value / atoms.get_masses()[:, None] * (steps * plan.timestep / 1000)
    context.setVelocities(state.getVelocities(asNumpy=True)._value + change)


def _record(context: openmm.Context, recorder: Recorder, now: float) -> None:
    state = context.getState(energy=True, positions=True)
    recorder.add(now, state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV,
                 state.getKineticEnergy()._value / KJ_PER_MOL_PER_EV,
                 state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM,
                 state.getPeriodicBoxVectors(asNumpy=True)._value / NM_PER_ANGSTROM
                 if recorder.atoms.pbc.all() else np.zeros((3, 3)))

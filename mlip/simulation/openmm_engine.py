"""Molecular dynamics in OpenMM."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from tqdm import tqdm

from mlip.checkpoints import Potential
from mlip.errors import MissingDependencyError, OptionError, StructureError
from mlip.potentials import create_system
from mlip.simulation.ase_engine import with_velocities
from mlip.simulation.record import Plan, Record, Recorder
from mlip.units import KJ_PER_MOL_PER_EV, NM_PER_ANGSTROM

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology


def openmm_box(atoms: Atoms) -> Atoms:
    """Return a copy whose cell OpenMM accepts: lower triangular and reduced, atoms rotated with it.

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


def topology_of(atoms: Atoms) -> Topology:
    """Return an OpenMM topology: one residue with all atoms, without bonds, with the box."""
    try:
        from openmm import app
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
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

    Args:
        atoms: start. Momenta are kept if there are any, else drawn at `plan.temperature`.
        potential: the model.
        plan: what to do.
        progress: whether to show a bar.
        platform: OpenMM platform, e.g. `"CPU"`; by default OpenMM's choice.

    Raises:
        MissingDependencyError: OpenMM is not installed.
        StructureError: periodic in one or two directions.
        openmm.OpenMMException: the dynamics ran into NaN or infinity.
    """
    moving = openmm_box(atoms if atoms.has("momenta") else with_velocities(atoms, plan.temperature, plan.seed))
    context, integrator = _context(moving, potential, plan, platform)
    recorder = Recorder(moving)
    start = time.perf_counter()
    _record(context, recorder, 0.0)
    with tqdm(total=plan.steps, desc="OpenMM", unit="step", disable=not progress) as bar:
        done = 0
        while done < plan.steps:
            chunk = min(plan.every, plan.steps - done)
            integrator.step(chunk)
            done += chunk
            bar.update(chunk)
            if done % plan.every == 0:
                _record(context, recorder, done * plan.timestep)
    seconds = time.perf_counter() - start
    final = moving.copy()
    state = context.getState(positions=True, velocities=True)
    final.positions = state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM
    final.set_velocities(state.getVelocities(asNumpy=True)._value / NM_PER_ANGSTROM / (1000 * units.fs))
    return recorder.finish(final, 3 * len(final) - 3, seconds, plan.steps)


def _context(atoms: Atoms, potential: Potential, plan: Plan,
             platform: str | None) -> tuple[openmm.Context, openmm.Integrator]:
    topology = topology_of(atoms)
    import openmm

    system = create_system(topology, potential)
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


def _record(context: openmm.Context, recorder: Recorder, now: float) -> None:
    state = context.getState(energy=True, positions=True)
    recorder.add(now, state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV,
                 state.getKineticEnergy()._value / KJ_PER_MOL_PER_EV,
                 state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM,
                 state.getPeriodicBoxVectors(asNumpy=True)._value / NM_PER_ANGSTROM
                 if recorder.atoms.pbc.all() else np.zeros((3, 3)))

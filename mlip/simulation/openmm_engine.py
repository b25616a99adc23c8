"""Molecular dynamics in OpenMM."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from mlip import errors
from mlip.checkpoints import Committee, Potential
from mlip.errors import (
    CheckpointError,
    CloseContactError,
    MissingDependencyError,
    MLIPError,
    NonFiniteError,
    OptionError,
    StructureError,
)
from mlip.io.ase import require_atoms, structure_of
from mlip.potentials import create_system
from mlip.simulation.ase_engine import moving_copy
from mlip.simulation.barostat import EVERY, Barostat
from mlip.simulation.journal import Journal
from mlip.simulation.molecules import molecules_of
from mlip.simulation.plan import Plan
from mlip.simulation.record import Record, Recorder
from mlip.simulation.restart import identity_of
from mlip.simulation.safety import atoms_named, check_temperature
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


def topology_of(atoms: Atoms, bonds: bool = False) -> Topology:
    """Return an OpenMM topology: one residue with all atoms, with the box.

    Args:
        atoms: the structure.
        bonds: whether atoms that are close are bonded, as `molecules_of` finds them: `create_system` then tells a
            barostat of OpenMM which atoms are one molecule.

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
    if bonds:
        added = list(topology.atoms())
        for i, j in molecules_of(atoms).bonds:
            topology.addBond(added[i], added[j])
    if periodic:
        try:
            topology.setPeriodicBoxVectors((atoms.cell.array * NM_PER_ANGSTROM).tolist())
        except ValueError as error:
            raise StructureError(f"OpenMM does not accept the cell {atoms.cell.tolist()}: {error} Use the atoms that "
                                 "mlip.simulation.openmm_engine.openmm_box(atoms) returns, also for their "
                                 "positions") from error
    return topology


def run_openmm(atoms: Atoms, potential: Potential | Committee, plan: Plan, *, trajectory: str | Path | None = None,
               progress: bool = False, platform: str | None = None, rule: StopRule | None = None,
               resume: bool = False, dispersion: str | None = None) -> Record:
    """Run molecular dynamics in OpenMM.

    The integrators of OpenMM keep velocities half a step behind the positions; for NVE they are shifted at the
    start and at the end, so that the run is the velocity Verlet run of `run_ase`. In a periodic box the frames
    are turned as `openmm_box` says.

    Args:
        atoms: start. Momenta are kept unless all are zero, else drawn at `plan.temperature`. Masses are
            theirs; charge, spin and head are read from `atoms.info`.
        potential: the model; of a committee the mean moves the atoms, and each frame says its largest spread.
        plan: what to do.
        trajectory: file for the frames, written as they come; see `outputs_of` for its formats and the files beside it.
        progress: whether to show a bar.
        platform: OpenMM platform, e.g. `"CPU"`; by default OpenMM's choice.
        rule: checked at the frames of a committee, which cost one more evaluation each.
        resume: as for `run_ase`; bytes are equal on the platforms Reference and CPU.
        dispersion: D3 to be added to the model, such as `"d3bj:pbe"`, see `create_system`.

    Raises:
        MissingDependencyError: OpenMM is not installed.
        StructureError: no atoms, periodic in one or two directions, or with constraints.
        OptionError: no such platform or dispersion, a trajectory that cannot be written, or a rule without committee.
        CheckpointError: the checkpoint is damaged or of another run.
        NonFiniteError: the dynamics ran into NaN or infinity.
        CloseContactError: two atoms came closer than real ones do.
        TemperatureError: it became hotter than the plan allows.
        UncertaintyError: the rule stopped the run.
    """
    require_atoms(atoms)
    if rule is not None and not isinstance(potential, Committee):
        raise OptionError("a stop rule needs a committee; one model was given")
    if atoms.constraints:
        raise StructureError(f"OpenMM would not keep to the {len(atoms.constraints)} ASE constraint(s) of these "
                             "atoms; drop them with atoms.set_constraint(), or run in ASE")
    moving = openmm_box(moving_copy(atoms, plan))
    barostat = Barostat(moving, potential, plan, dispersion) if plan.ensemble == "npt" else None
    if barostat is not None:
        moving = barostat.start
    identity = identity_of("openmm", atoms, potential, plan, rule, dispersion, platform=platform)
    journal = Journal(moving.copy(), 3 * len(moving) - 3, plan, trajectory, identity, rule)
    run = OpenMMRun(moving, _context(moving, potential, plan, platform, dispersion), plan, barostat)
    spread = SpreadReporter(rule, potential, moving, plan.every) if isinstance(potential, Committee) else None
    finished = journal.begin(run, resume)
    if finished is not None:
        return finished
    with journal.running(run, "OpenMM", progress) as bar, _typed_errors(run):
        if not journal.begun:
            run.shift_velocities(-0.5)
            _record(run, journal, spread)
        while run.step < plan.steps:
            run.advance(journal.recorder)
            if run.step % plan.every == 0:
                _record(run, journal, spread)
            bar.show(run.step)
        run.shift_velocities(0.5)
        state = run.context.getState(energy=True, positions=True, velocities=True)
    return journal.finish(run.atoms, state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV)


class OpenMMRun:
    """The state of a run in OpenMM.

    Attributes:
        context: of OpenMM.
        step: steps that are done.
    """

    def __init__(self, atoms: Atoms, context: openmm.Context, plan: Plan, barostat: Barostat | None) -> None:
        self.context, self.step = context, 0
        self._atoms, self._plan, self._barostat = atoms, plan, barostat
        self._masses = atoms.get_masses()

    @property
    def atoms(self) -> Atoms:
        """Atoms that move, where they are now."""
        state = self.context.getState(positions=True, velocities=True)
        self._atoms.positions, cell = self.places(state)
        if self._atoms.pbc.any():
            self._atoms.cell = cell
        self._atoms.set_velocities(state.getVelocities(asNumpy=True)._value / NM_PER_ANGSTROM / (1000 * units.fs))
        return self._atoms

    def places(self, state: openmm.State) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return positions [N, 3] and cell [3, 3] of a State in A; zeros where there is no box."""
        cell = (state.getPeriodicBoxVectors(asNumpy=True)._value / NM_PER_ANGSTROM if self._atoms.pbc.any()
                else np.zeros((3, 3)))
        return state.getPositions(asNumpy=True)._value / NM_PER_ANGSTROM, cell

    def kinetic(self, state: openmm.State) -> float:
        """Return the kinetic energy in eV of a State with energy and velocities.

        Motion of the centre of mass is removed before each step (but for NVE), after which the noise of the thermostat
        moves it again: that is left out, since no degrees of freedom are counted for it.
        """
        energy = state.getKineticEnergy()._value
        if self._plan.ensemble != "nve":
            momentum = self._masses @ state.getVelocities(asNumpy=True)._value
            energy -= 0.5 * momentum @ momentum / self._masses.sum()
        return float(energy / KJ_PER_MOL_PER_EV)

    def advance(self, recorder: Recorder) -> None:
        """Take one step, let the barostat act, and see whether all is well.

        Raises:
            TemperatureError: it is too hot.
        """
        self.context.getIntegrator().step(1)
        self.step += 1
        if self._barostat is not None and self.step % EVERY == 0:
            changed = self._barostat.attempt(*self.places(self.context.getState(positions=True)))
            if changed is not None:
                self.context.setPeriodicBoxVectors(*(changed[1] * NM_PER_ANGSTROM))
                self.context.setPositions(changed[0] * NM_PER_ANGSTROM)
        velocities = self.context.getState(velocities=True).getVelocities(asNumpy=True)._value
        kinetic = 0.5 / KJ_PER_MOL_PER_EV * self._masses * np.einsum("ij,ij->i", velocities, velocities)
        check_temperature(kinetic, self._atoms, self._plan, recorder)

    def shift_velocities(self, steps: float) -> None:
        """Move the velocities of an NVE run by some steps at constant force; the thermostat needs no such care."""
        if self._plan.ensemble != "nve":
            return
        state = self.context.getState(velocities=True, forces=True)
        change = state.getForces(asNumpy=True)._value / self._masses[:, None] * (steps * self._plan.timestep / 1000)
        self.context.setVelocities(state.getVelocities(asNumpy=True)._value + change)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return arrays and JSON-compatible values from which `load` goes on."""
        arrays = {"openmm": np.frombuffer(self.context.createCheckpoint(), dtype=np.uint8)}
        return arrays, {"barostat": None if self._barostat is None else self._barostat.state()}

    def load(self, step: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Go on from what `save` returned.

        Raises:
            CheckpointError: OpenMM does not take it.
        """
        try:
            self.context.loadCheckpoint(arrays["openmm"].tobytes())
        except _openmm().OpenMMException as error:
            raise CheckpointError(f"OpenMM does not go on from its checkpoint: {error}; version, platform and number "
                                  "of threads must be the same. Delete the checkpoint to begin anew") from error
        self.step = step
        if self._barostat is not None:
            self._barostat.restore(state["barostat"])


@contextmanager
def _typed_errors(run: OpenMMRun) -> Iterator[None]:
    """Turn errors of OpenMM into ours where they speak of ours."""
    try:
        yield
    except _openmm().OpenMMException as error:
        typed = _typed(str(error), run._plan)
        if typed is None:
            raise
        raise typed from error


def _typed(text: str, plan: Plan) -> MLIPError | None:
    """Return the error that a text of OpenMM, which keeps no types, speaks of; None if it is none of ours."""
    named = re.search(r"\b(\w+Error): ", text)
    if named is not None and named[1] == "CloseContactError":
        return CloseContactError(text[named.end():], atoms_named(text))
    if re.search(r"nonfinite|\bnan\b", text, re.IGNORECASE):
        return NonFiniteError(f"{text}; relax the structure first, or use a shorter time step, now {plan.timestep} fs",
                              atoms_named(text))
    kind = getattr(errors, named[1], None) if named else None
    if named is None or not isinstance(kind, type) or not issubclass(kind, MLIPError):
        return None
    return kind(text[named.end():])


def _context(atoms: Atoms, potential: Potential | Committee, plan: Plan, platform: str | None,
             dispersion: str | None) -> openmm.Context:
    openmm = _openmm()
    known = structure_of(atoms)
    system = create_system(topology_of(atoms), potential, charge=known.charge, spin=known.spin, head=known.head,
                           remove_cm_motion=plan.ensemble != "nve", dispersion=dispersion)
    for i, mass in enumerate(atoms.get_masses()):
        system.setParticleMass(i, mass)
    step = plan.timestep / 1000
    integrator: Any = openmm.VerletIntegrator(step)
    if plan.ensemble != "nve":
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


def _record(run: OpenMMRun, journal: Journal, spread: SpreadReporter | None) -> None:
    """Record a frame, ask the rule, and take a checkpoint."""
    state = run.context.getState(energy=True, positions=True, velocities=True)
    prediction = None if spread is None else spread.predict(state)
    journal.recorder.add(run.step, state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV, run.kinetic(state),
                         *run.places(state), None if prediction is None else prediction.forces_std_max)
    if spread is not None and spread.rule is not None and prediction is not None:
        spread.rule.check(run.step, spread.atoms, prediction)
    journal.keep(run)

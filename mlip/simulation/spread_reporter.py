"""`SpreadReporter`: evaluates a committee every so many steps of an OpenMM simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mlip.checkpoints import Committee, CommitteePrediction
from mlip.checkpoints.evaluator import CommitteeEvaluator
from mlip.io.ase import structure_of
from mlip.simulation.stop_rule import StopRule
from mlip.units import NM_PER_ANGSTROM

if TYPE_CHECKING:
    import openmm
    from openmm.app import Simulation


class SpreadReporter:
    """Reporter for `openmm.app.Simulation.reporters`; whatever moves the particles, the committee judges them.

    It costs one evaluation of the committee for each report. Use `create_committee_force` to move them by its mean.
    """

    def __init__(self, rule: StopRule | None, committee: Committee, atoms: Atoms, every: int,
                 particles: Sequence[int] | None = None) -> None:
        """Keep what is needed.

        Args:
            rule: its `UncertaintyError` ends the simulation; None only evaluates.
            committee: the models.
            atoms: the atoms they see: elements, `pbc`, and charge, spin and head in `info`; of a periodic structure
                the cell is the box of the simulation.
            every: steps between two reports.
            particles: their indices in the System; None for all.
        """
        self.rule, self.every = rule, every
        self.atoms = atoms.copy()
        self._particles = slice(None) if particles is None else list(particles)
        self._evaluator = CommitteeEvaluator(committee)

    def describeNextReport(self, simulation: Simulation) -> dict[str, Any]:  # noqa: N802 - OpenMM's name
        """Return when the next report is due, and what it needs."""
        return {"steps": self.every - simulation.currentStep % self.every, "periodic": False,
                "include": ["positions"]}

    def report(self, simulation: Simulation, state: openmm.State) -> None:
        """Evaluate the committee and ask the rule.

        Raises:
            UncertaintyError: the rule stops the simulation.
        """
        prediction = self.predict(state)
        if self.rule is not None:
            self.rule.check(simulation.currentStep, self.atoms, prediction)

    def predict(self, state: openmm.State) -> CommitteePrediction:
        """Return what the committee says of a State with positions; `atoms` moves there."""
        self.atoms.positions = state.getPositions(asNumpy=True)._value[self._particles] / NM_PER_ANGSTROM
        if self.atoms.pbc.any():
            self.atoms.cell = state.getPeriodicBoxVectors(asNumpy=True)._value / NM_PER_ANGSTROM
        return self._evaluator(structure_of(self.atoms), stress=False)

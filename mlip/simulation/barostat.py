"""`Barostat`: the volume of a box at constant pressure, by Monte Carlo, in whichever engine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.checkpoints import Committee, Potential
from mlip.checkpoints.dispersion import Dispersion
from mlip.checkpoints.evaluator import CommitteeEvaluator, Evaluator
from mlip.errors import CloseContactError, StructureError
from mlip.io.ase import structure_of
from mlip.simulation.molecules import molecules_of
from mlip.simulation.plan import Plan
from mlip.units import EV_A3_PER_BAR, KB_EV

EVERY = 25  # steps between two attempts
LEARN = 10  # attempts after which their size is changed

Array = NDArray[np.float64]


class Barostat:
    """Changes the volume of a periodic box now and then so that the pressure is that of the plan (isotropic).

    Every 25 steps a random change of the volume is tried, up to some A^3 that it learns, and accepted with the
    probability min(1, exp(-(dE + P dV)/kT) (V'/V)^M) (Chow and Ferguson, Comput. Phys. Commun. 91, 283 (1995)), as
    OpenMM's MonteCarloBarostat does. The M molecules of the start (`molecules_of`) move as a whole: the centre of each
    scales with the box and its inner distances stay, else stiff bonds would make all but tiny changes fail. In a
    crystal, or whatever else is bonded without end, each atom counts as one. Any choice gives the right ensemble as
    long as it stays the same, so that reactions do no harm. The centre of all atoms does not move. No stress is needed.

    It is not OpenMM's own, because the size of the changes that one has learnt is not part of OpenMM's checkpoints, and
    a run could not go on bit by bit.

    Attributes:
        start: the atoms with their molecules in one piece.
        molecules: their number.
    """

    def __init__(self, atoms: Atoms, potential: Potential | Committee, plan: Plan,
                 dispersion: str | None = None) -> None:
        """Find the molecules.

        Args:
            atoms: the start.
            potential: the model.
            plan: temperature, pressure and seed.
            dispersion: D3 that is added to the model.

        Raises:
            StructureError: not periodic in all directions, or atoms under constraints.
            OptionError, MissingDependencyError: see `Dispersion`.
        """
        if not atoms.pbc.all() or atoms.constraints:
            why = "the atoms have constraints" if atoms.pbc.all() else f"pbc is {atoms.pbc.tolist()}"
            raise StructureError("constant pressure needs a box that is periodic in all directions, and no "
                                 f"constraints; {why}")
        found = molecules_of(atoms)
        self.start = atoms.copy()
        self.start.positions = found.positions
        self.molecules = found.count
        self._label, self._plan = found.label, plan
        self._masses = atoms.get_masses()
        self._weight = np.bincount(found.label, self._masses)
        self._atoms = self.start.copy()
        self._evaluator = (CommitteeEvaluator(potential, refuse_contacts=True) if isinstance(potential, Committee)
                           else Evaluator(potential, refuse_contacts=True))
        self._dispersion = None if dispersion is None else Dispersion(dispersion)
        self._random = np.random.default_rng([plan.thermostat_seed(atoms), 1])
        self._scale = 0.01 * float(atoms.get_volume())
        self._tried = self._accepted = 0

    def attempt(self, positions: Array, cell: Array) -> tuple[Array, Array] | None:
        """Try one change of the volume.

        Args:
            positions: [N, 3] A.
            cell: [3, 3] A.

        Returns:
            The new positions and cell; None where the change was refused.
        """
        volume = abs(float(np.linalg.det(cell)))
        change = self._scale * (2 * self._random.random() - 1)
        chance = self._random.random()
        larger = volume + change
        accepted = None
        if larger > 0:
            kt = KB_EV * self._plan.temperature
            moved = self._scaled(positions, cell, (larger / volume) ** (1 / 3))
            try:
                work = self._energy(*moved) - self._energy(positions, cell)
            except CloseContactError:
                work = math.inf
            work += self._plan.pressure * EV_A3_PER_BAR * change - self.molecules * kt * math.log(larger / volume)
            if work <= 0 or (kt > 0 and chance < math.exp(-work / kt)):
                accepted = moved
        self._learn(accepted is not None, volume)
        return accepted

    def _scaled(self, positions: Array, cell: Array, factor: float) -> tuple[Array, Array]:
        """Return positions and cell with the centre of each molecule scaled about the centre of all."""
        moments = self._masses[:, None] * positions
        centres = np.stack([np.bincount(self._label, m) for m in moments.T], axis=1) / self._weight[:, None]
        away = centres - moments.sum(axis=0) / self._masses.sum()
        return positions + (factor - 1) * away[self._label], cell * factor

    def _energy(self, positions: Array, cell: Array) -> float:
        self._atoms.positions, self._atoms.cell = positions, cell
        structure = structure_of(self._atoms)
        energy = (self._evaluator(structure, stress=False) if isinstance(self._evaluator, CommitteeEvaluator)
                  else self._evaluator(structure, forces=False, stress=False)).energy
        return energy if self._dispersion is None else energy + self._dispersion(structure).energy

    def _learn(self, accepted: bool, volume: float) -> None:
        """Count, and keep the size of the steps so that between a quarter and three quarters of them are accepted."""
        self._tried += 1
        self._accepted += accepted
        if self._tried < LEARN:
            return
        if self._accepted < 0.25 * self._tried:
            self._scale /= 1.1
        elif self._accepted > 0.75 * self._tried:
            self._scale = min(self._scale * 1.1, 0.3 * volume)
        else:
            return
        self._tried = self._accepted = 0

    def state(self) -> dict[str, Any]:
        """Return all that its future depends on, JSON-compatible."""
        return {"random": self._random.bit_generator.state, "scale": self._scale, "tried": self._tried,
                "accepted": self._accepted}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._random.bit_generator.state = state["random"]
        self._scale, self._tried, self._accepted = state["scale"], state["tried"], state["accepted"]

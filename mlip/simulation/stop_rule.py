"""`StopRule`: stops dynamics where a committee does not know the forces, and keeps frames worth labelling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from ase import Atoms
from ase.io import write
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray

from mlip.calculators import CommitteeCalculator
from mlip.checkpoints import CommitteePrediction
from mlip.errors import OptionError, UncertaintyError
from mlip.io.ase import INFO_KEYS
from mlip.io.files import check_target
from mlip.simulation.frames import shorten

ENDINGS = (".xyz", ".extxyz")  # of the file of frames
NEAREST, APART = 12, 0.1  # a surrounding: distances to so many nearest atoms; A (rms) that make it another


class StopRule:
    """Watches how far the members of a committee are apart: `CommitteePrediction.forces_std`, of the worst atom.

    Beyond one limit dynamics stop; beyond a lower one frames are kept, to be labelled and trained on. A frame is kept
    only if the surroundings of its worst atom are new: of another element, or with distances to the nearest 12 atoms
    that differ by 0.1 A (root mean square) from those in each frame kept before. The file holds structures, charge,
    spin and head, the step and the spreads; energies and forces are left out on purpose, for they are no labels.

    Example:
        >>> rule = StopRule(stop_above=0.5, select_above=0.2, selected="to-label.xyz")  # doctest: +SKIP
        >>> rule.watch(dynamics)  # doctest: +SKIP

    Attributes:
        kept: number of frames in the file.
        largest: largest spread seen, eV/A.
    """

    def __init__(self, stop_above: float | None = None, *, consecutive: int = 1, select_above: float | None = None,
                 selected: str | Path | None = None, most: int = 100, keep: bool = False) -> None:
        """Set the limits.

        Args:
            stop_above: eV/A; None never stops.
            consecutive: how many checks in a row must exceed it, so that one rare frame does not end a run.
            select_above: eV/A, below `stop_above`; None keeps only the frame that stops the run.
            selected: extended XYZ file for the frames; an earlier one is removed.
            keep: whether it stays instead, for a run that is resumed and restores the rule.
            most: number of frames to keep; the one that stops the run is kept all the same.

        Raises:
            OptionError: limits that are none, or a file that cannot be written or is missing.
        """
        if stop_above is None and select_above is None:
            raise OptionError("nothing to watch for: give stop_above or select_above, in eV/A")
        for name, limit in (("stop_above", stop_above), ("select_above", select_above)):
            if limit is not None and not 0 < limit < math.inf:
                raise OptionError(f"{name} must be a positive number of eV/A; {limit!r} was given")
        if stop_above is not None and select_above is not None and select_above >= stop_above:
            raise OptionError(f"select_above must be below stop_above; {select_above} and {stop_above} were given")
        if select_above is not None and selected is None:
            raise OptionError("select_above needs a file for the frames: selected='to-label.xyz'")
        for name, count in (("consecutive", consecutive), ("most", most)):
            if type(count) is not int or count < 1:
                raise OptionError(f"{name} must be a whole number from 1; {count!r} was given")
        self.stop_above, self.consecutive, self.select_above, self.most = stop_above, consecutive, select_above, most
        self.selected = None if selected is None else check_target(selected, ENDINGS)
        if self.selected is not None and not keep:
            self.selected.unlink(missing_ok=True)
        self.kept, self.largest = 0, 0.0
        self._above = 0  # checks in a row beyond the limit
        self._known: list[tuple[int, NDArray[np.float64]]] = []

    def limits(self) -> dict[str, Any]:
        """Return what the rule was made with."""
        return {"stop_above": self.stop_above, "select_above": self.select_above, "consecutive": self.consecutive,
                "most": self.most}

    def state(self) -> dict[str, Any]:
        """Return all that its future depends on, JSON-compatible."""
        written = self.selected is not None and self.selected.exists()
        return {"kept": self.kept, "largest": self.largest, "above": self._above,
                "known": [[z, distances.tolist()] for z, distances in self._known],
                "size": self.selected.stat().st_size if self.selected is not None and written else 0}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; frames that came later are cut off the file.

        Raises:
            OSError: the file is gone, or shorter than it was.
        """
        self.kept, self.largest, self._above = state["kept"], state["largest"], state["above"]
        self._known = [(z, np.array(distances)) for z, distances in state["known"]]
        if self.selected is not None and state["size"]:
            shorten(self.selected, state["size"])
        elif self.selected is not None:
            self.selected.unlink(missing_ok=True)

    def watch(self, dynamics: MolecularDynamics | Optimizer, every: int = 1) -> None:
        """Check after every so many steps of ASE dynamics, or of an optimiser; spreads cost no further evaluation.

        Raises:
            OptionError: the atoms have no `CommitteeCalculator`.
        """
        atoms = getattr(dynamics.atoms, "atoms", dynamics.atoms)  # those of a filter
        calculator = atoms.calc
        if not isinstance(calculator, CommitteeCalculator):
            raise OptionError(f"a spread needs a CommitteeCalculator; the atoms have {type(calculator).__name__}")
        dynamics.attach(lambda: self.check(dynamics.nsteps, atoms, calculator.predict(atoms)), interval=every)

    def check(self, step: int, atoms: Atoms, prediction: CommitteePrediction) -> None:
        """Keep the frame if it is worth it; for engines other than ASE's, see `watch`.

        Args:
            step: number of the step, for the file and the error.
            atoms: the structure.
            prediction: of the committee for it.

        Raises:
            UncertaintyError: time to stop; the frame has been written.
        """
        spread = prediction.forces_std_max
        self.largest = max(self.largest, spread)
        self._above = self._above + 1 if self.stop_above is not None and spread > self.stop_above else 0
        stop = self._above >= self.consecutive
        wanted = self.select_above is not None and spread > self.select_above and self.kept < self.most
        if stop or (wanted and self._is_new(atoms, int(prediction.forces_std.argmax()))):
            self._keep(step, atoms, prediction)
        if stop:
            self._stop(step, atoms, prediction)

    def _is_new(self, atoms: Atoms, atom: int) -> bool:
        others = np.delete(np.arange(len(atoms)), atom)
        distances = np.sort(atoms.get_distances(atom, others, mic=True))[:NEAREST]
        limit = APART * math.sqrt(len(distances))
        number = int(atoms.numbers[atom])
        if any(z == number and np.linalg.norm(known - distances) <= limit for z, known in self._known):
            return False
        self._known.append((number, distances))
        return True

    def _keep(self, step: int, atoms: Atoms, prediction: CommitteePrediction) -> None:
        if self.selected is None:
            return
        frame = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc,
                      info={k: v for k, v in atoms.info.items() if k in INFO_KEYS})
        frame.info.update(step=step, energy_std=prediction.energy_std, forces_std_max=prediction.forces_std_max)
        frame.set_array("forces_std", prediction.forces_std)
        write(self.selected, frame, format="extxyz", append=self.kept > 0)
        self.kept += 1

    def _stop(self, step: int, atoms: Atoms, prediction: CommitteePrediction) -> NoReturn:
        assert self.stop_above is not None
        atom, spread = int(prediction.forces_std.argmax()), prediction.forces_std_max
        checks = f" for {self.consecutive} checks in a row" if self.consecutive > 1 else ""
        kept = "" if self.selected is None else f"; frames kept in {self.selected}: {self.kept}"
        raise UncertaintyError(
            f"stopped at step {step}: the models do not agree on the force on atom {atom} ({atoms.symbols[atom]}), "
            f"their spread is {spread:.4g} eV/A, above the limit of {self.stop_above:g} eV/A{checks}{kept}. Label such "
            "frames and train on them, or raise the limit", step, atom, spread, self.stop_above)

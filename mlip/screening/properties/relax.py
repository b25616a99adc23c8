"""The structure at a minimum of the energy: positions, and the cell of crystals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixSymmetry
from numpy.typing import NDArray

from mlip.checkpoints import Potential, Prediction
from mlip.errors import MissingDependencyError, OptionError, RelaxationError
from mlip.io.ase import require_atoms
from mlip.screening.batch import BatchedModel, System
from mlip.screening.cell import CellFilter
from mlip.simulation.relax import OPTIMIZERS
from mlip.units import to_voigt

UNITS = {"energy": "eV", "energy_per_atom": "eV/atom", "max_force": "eV/A", "max_stress": "eV/A^3", "volume": "A^3",
         "volume_change": "", "steps": ""}
NEEDS: tuple[str, ...] = ()
MOST_CHANGE = 3.0  # of the volume, either way; what changes more has become another structure, or none
NOISE = 1e-6  # eV/atom, of energies in float32
TOLERANCE = 0.01  # A, within which symmetries are found


@dataclass(frozen=True)
class Settings:
    """How structures are relaxed.

    Attributes:
        fmax: eV/A; no force is larger at the end, nor, of a cell, the stress times the volume for an atom. The default
            is tight enough for phonons and elastic constants.
        steps: most steps of the optimiser.
        cell: whether cells with three periodic directions relax too.
        symmetry: whether crystals keep the space group they begin with, within 0.01 A.
        optimizer: `"lbfgs"` or `"fire"`, of ASE.
    """

    fmax: float = 1e-4
    steps: int = 500
    cell: bool = True
    symmetry: bool = False
    optimizer: str = "lbfgs"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise OptionError(f"optimizer {self.optimizer!r} is unknown; allowed: {', '.join(OPTIMIZERS)}")
        if not self.fmax > 0 or type(self.steps) is not int or self.steps < 0:
            raise OptionError("fmax must be positive and steps a whole number from 0; "
                              f"{self.fmax!r} and {self.steps!r} were given")


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Relax one structure.

    Args:
        atoms: start; it is not changed. Constraints hold on the way.
        potential: the model.
        settings: how.

    Returns:
        Energy, largest force and stress, steps, volume and its change (crystals only), and `structure`, see `stored`.

    Raises:
        RelaxationError: no minimum within the steps, or the volume changed by more than a factor of 3.
        StructureError, CloseContactError, NonFiniteError, UnknownElementError: at the start or on the way.
    """
    (_, found), = relax_all([atoms], BatchedModel(potential, most=0), settings)
    if isinstance(found, Exception):
        raise found
    return found


def relax_all(structures: Sequence[Atoms], model: BatchedModel, settings: Settings,
              begin: Callable[[Iterable[int]], object] = list) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Relax structures side by side and yield each, by its place, as soon as it is done or has failed.

    Each has an optimiser of its own. Between two steps all those on the way are evaluated together; the place of one
    that has come to its end is taken by the next.

    Args:
        structures: where they start; they are not changed.
        model: evaluates them.
        settings: how.
        begin: told which are on the way, by their places, before each step and when one joins them.
    """
    waiting = list(range(len(structures)))
    active: dict[int, Relaxing] = {}
    room = max(model.most, 1)
    while waiting or active:
        while waiting and (not active or sum(r.load for r in active.values()) < room):
            place = waiting.pop(0)
            begin([*active, place])
            try:
                active[place] = Relaxing(structures[place], model.potential, settings)
            except MissingDependencyError:
                raise
            except Exception as error:  # e.g. symmetries of a structure that has none
                yield place, error
        begin(active)
        for (place, each), found in zip(list(active.items()), model([r.system for r in active.values()]), strict=True):
            outcome = each.advance(found)
            if outcome is not None:
                del active[place]
                yield place, outcome


class Relaxing:
    """One structure on its way to a minimum."""

    def __init__(self, start: Atoms, potential: Potential, settings: Settings) -> None:
        """Begin.

        Raises:
            StructureError: atoms that are none.
            MissingDependencyError: spglib, for symmetries.
        """
        require_atoms(start)
        self.settings = settings
        self.atoms = start.copy()
        self.crystal = bool(start.pbc.all())
        if settings.symmetry and self.crystal:
            self.atoms.set_constraint([*self.atoms.constraints, _symmetry(self.atoms)])
        self.volume = abs(float(np.linalg.det(self.atoms.cell.array)))
        self.atoms.calc = self._served = _Served()
        target = CellFilter(self.atoms) if self.crystal and settings.cell else self.atoms
        self._target, self._optimizer = target, OPTIMIZERS[settings.optimizer](target, logfile=None)
        self._energy = np.inf
        self.system = System.of(self.atoms, potential)
        self.steps = 0

    @property
    def load(self) -> int:
        """About what the model has to do, before it is known exactly: edges count, and atoms."""
        return self.system.load or 128 * len(self.atoms)

    def advance(self, found: Prediction | Exception) -> dict[str, Any] | Exception | None:
        """Take a step, given what the model says of the atoms; at the end, return the results or why there are none."""
        if isinstance(found, Exception):
            return found
        try:
            self._served.prediction = found
            largest = max(_largest(self._target.get_forces()), _largest(self.atoms.get_forces()))
            if largest < self.settings.fmax:
                return self._results(found)
            if self.steps == self.settings.steps:
                raise RelaxationError(f"no minimum within {self.steps} steps; the largest force is still "
                                      f"{largest:.3g} eV/A")
            if found.energy > self._energy + NOISE * len(self.atoms):  # what LBFGS has learned leads astray: forget it
                self._optimizer = OPTIMIZERS[self.settings.optimizer](self._target, logfile=None)
            self._energy = found.energy
            self._optimizer.step()
            self.steps += 1
            self._check_volume()
        except Exception as error:  # also those of ASE's constraints
            return error
        return None

    def _check_volume(self) -> None:
        if not self.crystal:
            return
        change = abs(float(np.linalg.det(self.atoms.cell.array))) / self.volume
        if not 1 / MOST_CHANGE < change < MOST_CHANGE:
            raise RelaxationError(f"the volume of the cell became {change:.3g} times what it was, in {self.steps} "
                                  "steps; the model does not hold it together, or it started far from a minimum")

    def _results(self, p: Prediction) -> dict[str, Any]:
        out: dict[str, Any] = {"energy": p.energy, "energy_per_atom": p.energy / len(self.atoms),
                               "max_force": _largest(self.atoms.get_forces()), "steps": self.steps}
        if p.stress is not None:
            out["max_stress"] = float(np.abs(p.stress).max())
        if self.crystal:
            volume = abs(float(np.linalg.det(self.atoms.cell.array)))
            out |= {"volume": volume, "volume_change": volume / self.volume - 1}
        return {**out, "structure": stored(self.atoms)}


class _Served:
    """Hands ASE the prediction made for the atoms as they are."""

    prediction: Prediction

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        return self.prediction.energy

    def get_forces(self, atoms: Atoms | None = None) -> NDArray[np.float64]:
        assert self.prediction.forces is not None
        return self.prediction.forces.copy()

    def get_stress(self, atoms: Atoms | None = None) -> NDArray[np.float64]:
        if self.prediction.stress is None:
            raise RelaxationError("the cell has no volume")
        return to_voigt(self.prediction.stress)


def _largest(forces: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(forces, axis=1).max())


def stored(atoms: Atoms) -> dict[str, Any]:
    """Return a structure as JSON: numbers, positions (A), cell (A), pbc, and charge, spin and head where there are any.

    Numbers keep all their bits. Constraints are left out.
    """
    from mlip.io.ase import INFO_KEYS

    info = {k: v.item() if isinstance(v, np.generic) else v for k, v in atoms.info.items() if k in INFO_KEYS}
    return {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), "cell": atoms.cell.array.tolist(),
            "pbc": atoms.pbc.tolist(), "info": info}


def restored(structure: dict[str, Any]) -> Atoms:
    """Return the atoms that `stored` was given."""
    return Atoms(structure["numbers"], structure["positions"], cell=structure["cell"], pbc=structure["pbc"],
                 info=dict(structure["info"]))


def _symmetry(atoms: Atoms) -> FixSymmetry:
    try:
        return FixSymmetry(atoms, symprec=TOLERANCE)
    except ImportError:
        raise MissingDependencyError.of("spglib", "screen") from None

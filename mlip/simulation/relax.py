"""Relaxation of one structure with ASE's optimisers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS
from numpy.typing import NDArray

from mlip.calculators import MLIPCalculator
from mlip.checkpoints import Potential
from mlip.errors import CloseContactError, NonFiniteError, OptionError, StructureError
from mlip.io.ase import require_atoms
from mlip.simulation.safety import stopped

OPTIMIZERS = {"lbfgs": LBFGS, "fire": FIRE}


@dataclass(frozen=True)
class Relaxation:
    """Result of `relax`.

    Attributes:
        atoms: the relaxed structure, with the calculator attached.
        converged: whether the largest force fell below `fmax` within the steps allowed.
        steps: optimiser steps taken.
        energy: eV.
        max_force: largest force on an atom, eV/A.
    """

    atoms: Atoms
    converged: bool
    steps: int
    energy: float
    max_force: float


def relax(atoms: Atoms, potential: Potential, *, fmax: float = 0.01, steps: int = 500, cell: bool = False,
          constant_volume: bool = False, optimizer: str = "lbfgs") -> Relaxation:
    """Relax positions, and the cell if asked for, to a local minimum of the energy.

    Args:
        atoms: start; it is not changed.
        potential: the model.
        fmax: eV/A; stop when no force is larger (with `cell`, also the scaled stress).
        steps: largest number of optimiser steps.
        cell: whether to relax the cell too; needs three periodic directions.
        constant_volume: whether the cell, if it is relaxed, may change its shape only.
        optimizer: `"lbfgs"` or `"fire"`.

    Raises:
        OptionError: options outside their allowed values.
        StructureError: no atoms, or a cell to relax that is not periodic in all directions.
        CloseContactError: atoms came closer than real ones do.
        NonFiniteError: the model returned NaN or infinity.
    """
    require_atoms(atoms)
    if optimizer not in OPTIMIZERS:
        raise OptionError(f"optimizer {optimizer!r} is unknown; allowed: {', '.join(OPTIMIZERS)}")
    if not fmax > 0 or steps < 0:
        raise OptionError(f"fmax must be positive and steps not negative; {fmax!r} and {steps!r} were given")
    if cell and not atoms.pbc.all():
        raise StructureError(f"only a cell with three periodic directions can be relaxed; pbc is {atoms.pbc.tolist()}")
    moved = atoms.copy()
    moved.calc = MLIPCalculator(potential)
    moved.calc.refuse_contacts = True
    free = FrechetCellFilter(moved, constant_volume=constant_volume) if cell else moved
    dynamics = OPTIMIZERS[optimizer](free, logfile=None)
    try:
        converged = bool(dynamics.run(fmax=fmax, steps=steps))
    except (NonFiniteError, CloseContactError) as error:
        raise stopped(error, f"the relaxation stopped after step {dynamics.nsteps}") from error
    forces: NDArray[np.float64] = moved.get_forces()
    largest = float(np.linalg.norm(forces, axis=1).max(initial=0.0))
    return Relaxation(moved, converged, int(dynamics.nsteps), float(moved.get_potential_energy()), largest)

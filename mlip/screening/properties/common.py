"""What the properties share: checks of settings, relaxed copies, batches of bounded size, supercells."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from mlip.checkpoints import Potential
from mlip.checkpoints.potential import Prediction
from mlip.errors import MissingDependencyError, OptionError, PropertyError, StructureError
from mlip.simulation.relax import Relaxation, relax

ATOMS_PER_BATCH = 512


def check_numbers(settings: Any) -> None:
    """Check that every number among the fields of a dataclass is positive, and whole where it is declared so.

    Raises:
        OptionError: names the field.
    """
    for field in dataclasses.fields(settings):
        if field.type not in ("int", "float"):
            continue
        value, kinds = getattr(settings, field.name), (int,) if field.type == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
            whole = "whole " if field.type == "int" else ""
            raise OptionError(f"{field.name} must be a positive {whole}number; {value!r} was given")


def require_crystal(atoms: Atoms, what: str) -> None:
    """Check that atoms are periodic in all directions; `what` is what they are needed for.

    Raises:
        StructureError: they are not.
    """
    if not len(atoms) or not atoms.pbc.all():
        raise StructureError(f"{what} needs a crystal with three periodic directions; pbc is {atoms.pbc.tolist()} and "
                             f"there are {len(atoms)} atoms")


def settled(atoms: Atoms, potential: Potential, fmax: float, steps: int, what: str, **options: Any) -> Relaxation:
    """Relax a copy and insist that this ends; `options` are those of `relax`, `what` names the structure.

    Raises:
        PropertyError: the forces are still larger than `fmax` after so many steps.
    """
    done = relax(atoms, potential, fmax=fmax, steps=steps, **options)
    if not done.converged:
        raise PropertyError(f"the relaxation of {what} did not converge: the largest force is {done.max_force:.2g} eV/A"
                            f" after {done.steps} steps, where {fmax:g} is asked; allow more steps, or larger forces")
    return done


def predictions(structures: Sequence[Atoms], potential: Potential, **options: bool) -> list[Prediction]:
    """Predict in batches of about `ATOMS_PER_BATCH` atoms; `options` are those of `Potential.predict`."""
    size = max(1, ATOMS_PER_BATCH // max(map(len, structures), default=1))
    parts = [potential.predict(structures[i:i + size], **options) for i in range(0, len(structures), size)]
    return [p for part in parts for p in part]


def repeats(atoms: Atoms, length: float) -> tuple[int, int, int]:
    """Return how often a crystal must be repeated for its opposite faces to be at least `length` A apart."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    a, b, c = (max(1, math.ceil(length / h - 1e-6)) for h in heights)
    return a, b, c


def symmetry(atoms: Atoms, symprec: float, function: str = "get_symmetry_dataset", **options: Any) -> Any:
    """Return what a function of spglib says of a crystal: by default its space group and what belongs to it.

    Raises:
        MissingDependencyError: spglib is not installed.
        PropertyError: it finds no symmetry, not even the identity.
    """
    try:
        import spglib
    except ImportError:
        raise MissingDependencyError.of("spglib", "screen") from None
    cell = atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers
    reason = "are two atoms in one place?"
    found = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its way to tell errors, which others can choose
        try:
            found = getattr(spglib, function)(cell, symprec=symprec, **options)
        except spglib.SpglibError as error:
            reason = str(error)
    if found is None:
        raise PropertyError(f"spglib finds no symmetry of this crystal within {symprec:g} A: {reason}")
    return found

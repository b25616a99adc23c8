"""All checks of one model on one structure, with their limits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.checkpoints import Potential
from mlip.elements import SYMBOLS
from mlip.errors import StructureError
from mlip.graph import Structure
from mlip.io.ase import require_atoms
from mlip.verify import checks

STRONGEST = 20.0  # eV; CO has 11.2, in density functionals up to 13


@dataclass(frozen=True)
class Check:
    """One measured promise.

    Attributes:
        name: what was checked.
        error: largest deviation found, in eV, A and combinations of them.
        limit: largest deviation allowed, in the same unit; infinite for what is a property, not a promise.
    """

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN is not."""
        return self.error <= self.limit


def verify_model(potential: Potential, atoms: Atoms, pairs: Collection[tuple[str, str]] = ()) -> list[Check]:
    """Measure what a model promises, on a structure, in float64.

    Forces are minus the gradient of the energy, the stress its strain derivative; rotated, shuffled, moved
    and repeated structures give the same numbers; the energy of two atoms is smooth at all distances, also at the
    cutoff, and each structure has the same energies as alone in a batch; no two atoms are bound by much more than in
    the strongest bond there is. The energy of a lone atom beside its E0 is only reported: models with a residual
    connection or a shift, which most MACE models have, do not return E0 there. Of a model that predicts forces
    and stress beside the energy, their distance from its derivatives is reported too; it promises none. So is the
    effect of rotations on a model that only learned what they do. A model of whole molecules has no smooth cutoff to
    check.

    Args:
        potential: any model; it is converted to float64.
        atoms: structure made of elements of the model.
        pairs: elements to look for holes between, by symbol; by default all pairs of the structure.

    Raises:
        UnknownElementError, StructureError: atoms that the model cannot evaluate, or none.
    """
    require_atoms(atoms)
    exact = potential.to(dtype="float64")
    forces, smooth, stress = (1e-7, 1e-6, 1e-8) if exact.model.conservative else (math.inf,) * 3
    rotation = 1e-8 if exact.model.rotation_invariant else math.inf
    found = [
        Check("forces = -dE/dr", checks.finite_difference_forces(exact, atoms), forces),
        Check("rotation", checks.rotation(exact, atoms), rotation),
        Check("permutation", checks.permutation(exact, atoms), 1e-8),
        Check("translation", checks.translation(exact, atoms), 1e-8),
        Check("batch = single", checks.batching(exact, [atoms, atoms]), 1e-9),
        Check("lone atom - E0", checks.isolated_energies(exact), math.inf),
    ]
    pair = atoms.symbols[0], atoms.symbols[-1]
    if _takes_pairs_beyond_the_cutoff(exact, atoms):
        found.append(Check("smooth with distance", checks.smoothness(exact, pair), smooth))
    found += [Check("binding of two atoms", checks.binding(exact, pairs or pairs_of([atoms.numbers])), STRONGEST),
              Check("float32 = float64", checks.precision(exact, atoms), 1e-3)]
    if atoms.pbc.any() and abs(atoms.cell.volume) > 0:
        found.append(Check("stress = dE/dstrain/V", checks.finite_difference_stress(exact, atoms), stress))
        found.append(Check("supercell", checks.supercell(exact, atoms, _repeat(atoms)), 1e-8))
    return found


def pairs_of(structures: Iterable[NDArray[np.int64]]) -> list[tuple[str, str]]:
    """Return the pairs of elements that occur together in some structure, from the atomic numbers of each."""
    kinds = {tuple(np.unique(numbers).tolist()) for numbers in structures}
    found = {pair for kind in kinds for pair in combinations_with_replacement(kind, 2)}
    return [(SYMBOLS[a], SYMBOLS[b]) for a, b in sorted(found)]


def table(found: list[Check]) -> str:
    """Return the checks as text, a line each."""
    lines = [f"{'check':26}{'error':>12}{'limit':>12}"]
    for c in found:
        limit, verdict = ("-", "") if c.limit == math.inf else (f"{c.limit:g}", "ok" if c.passed else "FAILED")
        lines.append(f"{c.name:26}{c.error:>12.2e}{limit:>12}  {verdict}".rstrip())
    return "\n".join(lines)


def _takes_pairs_beyond_the_cutoff(potential: Potential, atoms: Atoms) -> bool:
    far = Structure.create(atoms.numbers[[0, -1]], [[0.0, 0.0, 0.0], [0.0, 0.0, potential.cutoff + 1.0]])
    try:
        potential.model.config.check_structure(far)
    except StructureError:
        return False
    return True


def _repeat(atoms: Atoms) -> tuple[int, int, int]:
    a, b, c = (2 if periodic else 1 for periodic in atoms.pbc)
    return a, b, c

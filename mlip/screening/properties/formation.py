"""Formation energy and distance to the convex hull of given references."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.formula import Formula

from mlip.checkpoints import Potential
from mlip.elements import SYMBOLS
from mlip.errors import OptionError, PropertyError

UNITS = {"energy": "eV/atom", "formation_energy": "eV/atom", "hull_energy": "eV/atom", "hull_distance": "eV/atom",
         "decomposition": "fraction of the atoms"}


@dataclass(frozen=True)
class Settings:
    """What energies are compared with.

    Attributes:
        references: formula -> eV/atom, computed with the same model: `{"Ni": -5.5, "NiO": -5.8}`. Every element of a
            structure must be there; compounds are further corners of the hull.
    """

    references: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_references(self.references)


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Compare the energy of a structure with those of the references at the same composition.

    The hull is that of the references alone: a structure below it has a negative distance, and is a new stable phase
    beside them. Temperature, pressure and zero-point motion are left out.

    Args:
        atoms: a relaxed structure.
        potential: the model.
        settings: the references.

    Returns:
        The values of `UNITS`. `decomposition` tells which references the hull is made of there.

    Raises:
        PropertyError: an element without reference.
    """
    energy = potential.predict(atoms, forces=False, stress=False).energy / len(atoms)
    fractions = composition(atoms.get_chemical_formula())
    apart = sum(x * element_energy(symbol, settings.references) for symbol, x in fractions.items())
    hull, parts = hull_energy(fractions, settings.references)
    return {"energy": energy, "formation_energy": energy - apart, "hull_energy": hull, "hull_distance": energy - hull,
            "decomposition": parts}


def check_references(references: Mapping[str, float]) -> None:
    """Check that references are formulas and finite numbers.

    Raises:
        OptionError: one is not.
    """
    for formula, energy in references.items():
        composition(formula)
        if isinstance(energy, bool) or not isinstance(energy, (int, float)) or not math.isfinite(energy):
            raise OptionError(f"the reference of {formula} must be a number in eV/atom; {energy!r} was given")


def composition(formula: str) -> dict[str, float]:
    """Return element -> fraction of the atoms.

    Raises:
        OptionError: no chemical formula.
    """
    try:
        counts = Formula(formula).count()
    except (ValueError, KeyError):
        counts = {}
    total = sum(counts.values())
    if not total or not set(counts) <= set(SYMBOLS):
        raise OptionError(f"{formula!r} is no chemical formula; write for example 'Ni' or 'Al2O3'")
    return {symbol: count / total for symbol, count in counts.items()}


def element_energy(symbol: str, references: Mapping[str, float]) -> float:
    """Return the lowest reference of an element, eV/atom.

    Raises:
        PropertyError: there is none.
    """
    found = [energy for formula, energy in references.items() if composition(formula) == {symbol: 1.0}]
    if not found:
        raise PropertyError(f"there is no reference energy for {symbol}; give that of the element, computed with the "
                            f"same model: references={{{symbol!r}: eV/atom, ...}}")
    return min(found)


def hull_energy(fractions: Mapping[str, float], references: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Return the lowest energy of a mixture of references with a composition, eV/atom, and that mixture.

    It is a linear program: fractions w >= 0 of the references with sum_k w_k x_k = x and the least sum_k w_k e_k.

    Args:
        fractions: element -> fraction of the atoms; each must have a reference of its own.
        references: formula -> eV/atom.

    Returns:
        The energy, and formula -> fraction of the atoms.
    """
    from scipy.optimize import linprog

    phases = {f: c for f in references if set(c := composition(f)) <= set(fractions)}
    shares = np.array([[c.get(symbol, 0.0) for c in phases.values()] for symbol in fractions])
    solved = linprog([references[f] for f in phases], A_eq=shares, b_eq=list(fractions.values()), method="highs-ds")
    if not solved.success:
        raise PropertyError(f"no mixture of the references {', '.join(phases)} has the composition {dict(fractions)}")
    return float(solved.fun), {f: float(w) for f, w in zip(phases, solved.x, strict=True) if w > 1e-9}

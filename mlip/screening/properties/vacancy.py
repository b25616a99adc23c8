"""Formation energies of vacancies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from mlip.checkpoints import Potential
from mlip.screening.properties.common import check_numbers, repeats, require_crystal, settled, symmetry
from mlip.screening.properties.formation import check_references, element_energy

UNITS = {"supercell": "repeats", "sites": "", "elements": "", "multiplicities": "", "formation_energies": "eV",
         "unrelaxed_energies": "eV", "lowest": "eV"}


@dataclass(frozen=True)
class Settings:
    """How vacancies are made.

    Attributes:
        supercell: A, least distance between opposite faces of the supercell.
        references: element -> eV/atom, computed with the same model: where the atom goes. Not needed for crystals of
            one element: there it goes into the crystal.
        symprec: A, within which sites are equivalent.
        fmax: eV/A; the atoms around a vacancy relax to this in a fixed cell.
        steps: largest number of optimiser steps.
    """

    supercell: float = 10.0
    references: Mapping[str, float] = field(default_factory=dict)
    symprec: float = 1e-3
    fmax: float = 0.01
    steps: int = 500

    def __post_init__(self) -> None:
        check_numbers(self)
        check_references(self.references)


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Take out one atom of each inequivalent site: E(vacancy) + E(of the atom elsewhere) - E(crystal).

    Vacancies are neutral, and keep the symmetry of their site as they relax. The optimiser is FIRE: far from harmonic,
    L-BFGS may step back and forth without end.

    Args:
        atoms: a relaxed crystal.
        potential: the model.
        settings: how.

    Returns:
        The values of `UNITS`; lists over the sites, each named by its first atom in `atoms`.

    Raises:
        StructureError: no crystal.
        PropertyError: a relaxation did not converge, or a compound has no reference for an element.
        MissingDependencyError: spglib is not installed.
    """
    require_crystal(atoms, "a vacancy")
    sites, multiplicities = np.unique(symmetry(atoms, settings.symprec).equivalent_atoms, return_counts=True)
    symbols = [atoms.symbols[i] for i in sites]
    size = repeats(atoms, settings.supercell)
    whole = atoms.repeat(size)
    perfect = potential.predict(whole, forces=False, stress=False).energy
    references = settings.references or ({symbols[0]: perfect / len(whole)} if len(set(symbols)) == 1 else {})
    relaxed, unrelaxed = [], []
    for site, symbol in zip(sites, symbols, strict=True):
        elsewhere = element_energy(symbol, references)
        vacancy = whole.copy()
        vacancy.set_constraint()
        del vacancy[int(site)]
        before = potential.predict(vacancy, forces=False, stress=False).energy
        after = settled(vacancy, potential, settings.fmax, settings.steps, f"the vacancy of {symbol} at site {site}",
                        optimizer="fire")
        unrelaxed.append(before + elsewhere - perfect)
        relaxed.append(after.energy + elsewhere - perfect)
    return {"supercell": list(size), "sites": sites.tolist(), "elements": symbols,
            "multiplicities": multiplicities.tolist(), "formation_energies": relaxed, "unrelaxed_energies": unrelaxed,
            "lowest": min(relaxed)}

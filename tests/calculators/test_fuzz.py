"""Random damage to structures: a finite number or a typed error, never anything else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import mlip
from mlip.calculators import MLIPCalculator
from mlip.errors import MLIPError

ODD = (0.0, 1e-300, 1e-12, 1e-4, 1.0, -5.5, 1e3, 1e6, 1e9, 1e30, 1e308, math.nan, math.inf, -math.inf)
NUMBERS = (0, -1, 1, 6, 8, 29, 118, 119, 2**40)
INFO = (None, 0, 1, -1, 2.0, 1.5, "1", "x", np.int64(2), np.float32(1), np.array(1), np.array([1, 2]), [], {},
        True, math.nan, math.inf, 10**30, 10**400, b"1", 1j, object())


def damage(atoms: Atoms, rng: np.random.Generator) -> None:
    """Change one thing about the atoms."""
    i, j = rng.integers(len(atoms), size=2)
    odd = ODD[rng.integers(len(ODD))]
    cell = atoms.cell.array.copy()
    cell[rng.integers(3), rng.integers(3)] = odd
    key = ("charge", "spin", "spin_multiplicity", "head")[rng.integers(4)]
    actions: list[Callable[[], Any]] = [
        lambda: atoms.positions.__setitem__((i, rng.integers(3)), odd),
        lambda: atoms.set_cell(cell),
        lambda: atoms.set_pbc(rng.integers(0, 2, 3).astype(bool)),
        lambda: atoms.numbers.__setitem__(i, NUMBERS[rng.integers(len(NUMBERS))]),
        lambda: atoms.info.__setitem__(key, INFO[rng.integers(len(INFO))]),
        lambda: atoms.positions.__setitem__(i, atoms.positions[j] + rng.normal(0, 1e-3, 3)),
        lambda: atoms.positions.__imul__(10.0 ** rng.integers(-8, 8)),
        lambda: atoms.set_cell(atoms.cell.array * 10.0 ** rng.integers(-6, 6)),
    ]
    with np.errstate(all="ignore"):
        actions[rng.integers(len(actions))]()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_structures(mace: mlip.Potential, structures: dict[str, Atoms], seed: int) -> None:
    rng = np.random.default_rng(seed)
    calculator = MLIPCalculator(mace)
    outcomes: Counter[str] = Counter()
    for _ in range(50):
        atoms = structures[list(structures)[rng.integers(len(structures))]].copy()
        for _ in range(rng.integers(1, 4)):
            damage(atoms, rng)
        try:
            forces, energy = calculator.get_forces(atoms), calculator.get_potential_energy(atoms)
        except MLIPError:
            outcomes["error"] += 1
        else:
            assert np.isfinite(forces).all()
            assert np.isfinite(energy)
            outcomes["value"] += 1
    assert min(outcomes["error"], outcomes["value"]) > 10

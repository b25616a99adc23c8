"""A reused neighbour list gives the numbers of a fresh one, whatever moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms

import mlip
from mlip.calculators import MLIPCalculator
from mlip.verify import checks

Heat = Callable[[Atoms, float], Atoms]


@pytest.mark.parametrize("skin", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["cubic", "triclinic", "left_handed", "slab", "wire", "molecule"])
def test_dynamics_with_wrapping(mace: mlip.Potential, structures: dict[str, Atoms], heat: Heat, name: str,
                                skin: float) -> None:
    atoms = structures[name]
    atoms.positions += 0.7  # atoms sit on and beyond the faces
    heat(atoms, 2000)
    assert checks.skin(mace, atoms, MLIPCalculator(mace, skin=skin), steps=40) <= 1e-9


def test_jumps_between_images_and_cells(mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
    atoms = structures["triclinic"].repeat((2, 1, 1))
    atoms.calc = MLIPCalculator(mace, skin=1.0)
    rng = np.random.default_rng(5)
    for step in range(40):
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        if step % 5 == 0:
            atoms.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
        if step % 4 == 0:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.01, (3, 3))), scale_atoms=True)
        if step % 16 == 0:
            atoms.pbc = [True, step % 32 == 0, True]
        fresh = mace.predict(atoms)
        assert atoms.get_potential_energy() == pytest.approx(fresh.energy, abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), fresh.forces, atol=1e-10)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), fresh.stress, atol=1e-11)


def test_the_list_is_reused(mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
    atoms = structures["cubic"]
    atoms.calc = MLIPCalculator(mace, skin=1.0)
    for _ in range(20):
        atoms.positions += np.random.default_rng(1).normal(0, 0.01, atoms.positions.shape)
        atoms.get_forces()
    skin = atoms.calc._evaluator.skin
    assert skin.calls == 20
    assert skin.rebuilds <= 3


def test_a_small_skin_costs_rebuilds_not_accuracy(mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
    atoms = structures["cubic"]
    atoms.calc = MLIPCalculator(mace, skin=0)
    for _ in range(5):
        atoms.rattle(0.05, seed=_)
        assert atoms.get_potential_energy() == mace.predict(atoms).energy
    assert atoms.calc._evaluator.skin.rebuilds == 5

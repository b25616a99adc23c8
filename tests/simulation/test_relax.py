"""Relaxation of molecules and crystals."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from mlip.errors import OptionError, StructureError, UnknownElementError
from mlip.simulation import relax
from mlip.simulation.quickstart import acetylacetone


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_molecule(acac, optimizer) -> None:
    start = acetylacetone()
    start.rattle(0.03, seed=0)
    before = start.copy()
    result = relax(start, acac, fmax=0.03, optimizer=optimizer)
    assert result.converged
    assert 0 < result.steps < 500
    assert result.max_force <= 0.03
    assert result.energy < acac.predict(start).energy - 0.01
    assert result.energy == pytest.approx(acac.predict(result.atoms).energy, abs=1e-8)
    assert result.atoms.get_potential_energy() == result.energy  # the calculator is attached
    assert start == before
    assert start.calc is None


def test_crystal_keeps_its_cell(binding, copper) -> None:
    result = relax(copper, binding)
    assert result.converged
    assert np.array_equal(result.atoms.cell.array, copper.cell.array)
    assert abs(result.atoms.get_stress()).max() > 1e-4


def test_crystal_with_its_cell(binding) -> None:
    start = bulk("Cu", "fcc", a=3.35)
    strain = 0.01 * np.array([[0, 1, 0], [0, 0, 1], [0, 0, -1]])
    start.set_cell(start.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    result = relax(start, binding, fmax=1e-4, cell=True)
    assert result.converged
    assert abs(result.atoms.get_stress()).max() * result.atoms.get_volume() < 2e-4
    assert result.energy < binding.predict(start).energy
    kept = relax(start, binding, fmax=1e-4)
    assert kept.steps == 0  # one atom: nothing to do but the cell


def test_too_few_steps_are_reported(acac) -> None:
    start = acetylacetone()
    start.rattle(0.1, seed=0)
    result = relax(start, acac, fmax=1e-3, steps=2)
    assert not result.converged
    assert result.steps == 2
    assert result.max_force > 1e-3
    none = relax(start, acac, steps=0)
    assert not none.converged
    assert none.energy == pytest.approx(acac.predict(start).energy)


def test_constraints_hold(binding, copper) -> None:
    copper.set_constraint(FixAtoms([0, 2]))
    result = relax(copper, binding, fmax=0.02)
    assert result.converged
    assert np.array_equal(result.atoms.positions[[0, 2]], copper.positions[[0, 2]])
    assert not np.allclose(result.atoms.positions[1], copper.positions[1])


@pytest.mark.parametrize(("options", "text"), [
    ({"optimizer": "bfgs"}, "bfgs.*lbfgs, fire"), ({"fmax": 0.0}, "fmax"), ({"fmax": float("nan")}, "fmax"),
    ({"steps": -1}, "steps"), ({"cell": True}, "three periodic directions"),
])
def test_bad_options(binding, options, text) -> None:
    with pytest.raises((OptionError, StructureError), match=text):
        relax(molecule("CH3OH"), binding, **options)


@pytest.mark.parametrize("cell", [False, True])
def test_nothing_to_relax(binding, cell) -> None:
    with pytest.raises(StructureError, match="no atoms"):
        relax(Atoms(), binding, cell=cell)


def test_unknown_element(binding) -> None:
    with pytest.raises(UnknownElementError):
        relax(Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]), binding)

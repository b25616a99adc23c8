"""Tabulated radial functions against the exact ones."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

import mlip
from mlip.calculators import MLIPCalculator
from mlip.errors import BackendError, OptionError
from mlip.io.ase import structure_of
from mlip.models.base import EnergyModel
from mlip.nn import radial_table
from mlip.nn.radial import RadialMLP
from mlip.nn.radial_table import TableNetwork, function_jets, network_jets


def atoms_of(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms("H4C3O2Cu", rng.uniform(0, 5, (10, 3)), cell=np.eye(3) * 5 + 0.2, pbc=True)


def test_jets_of_a_network() -> None:
    """Values and derivatives carried through the layers equal those of automatic differentiation."""
    network = RadialMLP([3, 5, 4, 2]).double()
    r = torch.linspace(0.3, 4.0, 7, dtype=torch.float64)

    def basis(x: Tensor) -> Tensor:
        return torch.stack([torch.sin(x), x**2, 1 / x], dim=1)

    with torch.no_grad():
        found = network_jets(network, function_jets(basis, r))
    expected = function_jets(lambda x: network(basis(x)), r)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_energy_forces_and_stress(any_mace: mlip.Potential, seed: int) -> None:
    exact = any_mace.predict(atoms_of(seed))
    table = any_mace.to(radial="tabulated")
    found = table.predict(atoms_of(seed))
    assert abs(found.energy - exact.energy) / 10 < 1e-8
    np.testing.assert_allclose(found.forces, exact.forces, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.stress, exact.stress, rtol=0, atol=1e-8)
    assert table.radial_error is not None
    assert 0 < table.radial_error < 1e-8


def test_forces_are_the_gradient_of_the_tabulated_energy(any_mace: mlip.Potential,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """With few intervals, so that the table differs from the exact functions, the two still belong together."""
    monkeypatch.setattr(radial_table, "INTERVALS", 10)
    monkeypatch.setattr(radial_table, "LARGEST_ERROR", 1.0)
    model = any_mace.model.tabulated()
    structure = structure_of(atoms_of(0))
    forces = mlip.Potential(model, any_mace.info).to(backend="reference")
    assert forces.radial == "exact"  # a model made by hand: the potential does not know of the exact one
    p = forces.evaluate([structure])[0]
    exact = any_mace.evaluate([structure])[0]
    assert np.abs(p.forces - exact.forces).max() > 1e-7
    step, atom = 1e-4, 3
    for axis in range(3):
        energies = []
        for sign in (1, -1):
            moved = structure.positions.copy()
            moved[atom, axis] += sign * step
            energies.append(forces.evaluate([structure_of(Atoms(structure.numbers, moved, cell=structure.cell,
                                                                pbc=True))])[0].energy)
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(p.forces[atom, axis], abs=1e-6)


def test_a_bad_table_is_refused(mace: mlip.Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radial_table, "INTERVALS", 4)
    with pytest.raises(BackendError, match=r"a table of 4 intervals is off by .* use radial='exact'"):
        mace.to(radial="tabulated").predict(atoms_of(0))


def test_an_error_between_the_knots_is_found() -> None:
    knots = torch.zeros(3, radial_table.INTERVALS + 1, 1, dtype=torch.float64)
    knots[0] = 1.0
    for error, fine in ((9e-7, True), (1.1e-6, False)):
        network, middle = TableNetwork(1, 6.0).double(), torch.ones(radial_table.INTERVALS, 1, dtype=torch.float64)
        middle[7] -= error
        if fine:
            assert network.make(knots, middle)[1] == pytest.approx(error, rel=1e-6)
        else:
            with pytest.raises(BackendError, match=r"is off by 1.1e-06 of the largest value \(allowed: 1e-06\)"):
                network.make(knots, middle)


def test_settings(mace: mlip.Potential, tmp_path: Path) -> None:
    table = mace.to(radial="tabulated")
    assert (mace.radial, table.radial) == ("exact", "tabulated")
    assert mace.radial_error is None
    assert table.to(radial="tabulated") is table
    assert table.info.sha256 == mace.info.sha256
    energy = table.predict(atoms_of(0)).energy
    assert abs(table.to(radial="exact").predict(atoms_of(0)).energy - mace.predict(atoms_of(0)).energy) < 1e-12
    single = table.to(dtype="float32")
    assert single.radial == "tabulated"
    assert abs(single.predict(atoms_of(0)).energy - energy) < 1e-3
    loaded = mlip.load(table.save(tmp_path / "exact.mlip"))  # what is saved is the exact model
    assert loaded.radial == "exact"
    assert loaded.info.sha256 == mlip.load(mace.save(tmp_path / "same.mlip")).info.sha256
    assert mlip.load(tmp_path / "exact.mlip", radial="tabulated").predict(atoms_of(0)).energy == energy
    with pytest.raises(OptionError, match="radial='splines' is not supported; allowed: exact, tabulated"):
        mace.to(radial="splines")
    with pytest.raises(OptionError, match="tabulated already"):
        table.model.tabulated()


def test_new_elements_join_the_tables_when_they_are_met(any_mace: mlip.Potential) -> None:
    table = any_mace.to(radial="tabulated")
    for symbols in ("HH", "HC", "CuO", "HO", "CCu"):
        dimer = Atoms(symbols, [[0, 0, 0], [0.2, 1.3, 0.1]])
        assert table.predict(dimer).energy == pytest.approx(any_mace.predict(dimer).energy, rel=0, abs=1e-8)


def test_copies(mace: mlip.Potential) -> None:
    table = mace.to(radial="tabulated")
    expected = table.predict(atoms_of(0)).energy
    for twin in (copy.deepcopy(table.model), pickle.loads(pickle.dumps(table.model))):
        assert isinstance(twin, EnergyModel)
        assert mlip.Potential(twin, table.info).predict(atoms_of(0)).energy == expected
    calculator = MLIPCalculator(mace, radial="tabulated")
    assert calculator.get_potential_energy(atoms_of(0)) == expected
    assert calculator.parameters["radial"] == "tabulated"

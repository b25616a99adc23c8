"""Vacancies against energies by hand."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk

from mlip.errors import OptionError, PropertyError
from mlip.screening.properties.vacancy import Settings, compute
from mlip.simulation import relax


def test_of_an_element(elements, relaxed) -> None:
    crystal = relaxed("Cu", cubic=True)
    found = compute(crystal, elements, Settings(supercell=7.0))
    assert [found[name] for name in ("supercell", "sites", "elements", "multiplicities")] == [[2] * 3, [0], ["Cu"], [4]]
    whole = crystal.repeat(2)
    hole = whole.copy()
    del hole[0]
    perfect = elements.predict(whole).energy / 32
    assert found["unrelaxed_energies"][0] == pytest.approx(elements.predict(hole).energy - 31 * perfect, abs=1e-8)
    after = relax(hole, elements, fmax=0.01, optimizer="fire").energy
    assert found["lowest"] == found["formation_energies"][0] == pytest.approx(after - 31 * perfect, abs=1e-8)
    assert 0.5 < found["lowest"] < found["unrelaxed_energies"][0] < 2.0


@pytest.mark.slow
def test_silicon_relaxes(elements, relaxed) -> None:
    """In this cell L-BFGS goes back and forth: after 500 steps the largest force is still 0.14 eV/A."""
    found = compute(relaxed("Si"), elements, Settings(steps=100))
    assert found["supercell"] == [4, 4, 4]
    assert found["lowest"] == pytest.approx(3.423, abs=0.02)
    assert found["lowest"] < found["unrelaxed_energies"][0] - 0.1


def test_each_inequivalent_site_once(elements, relaxed) -> None:
    """Beta tungsten has a site of two atoms and one of six."""
    scaled = [(0, 0, 0), (.5, .5, .5), (.25, 0, .5), (.75, 0, .5), (.5, .25, 0), (.5, .75, 0), (0, .5, .25),
              (0, .5, .75)]
    crystal = Atoms("Mo8", scaled_positions=scaled, cell=[5.05] * 3, pbc=True)
    found = compute(crystal, elements, Settings(supercell=5.0, fmax=0.5))
    assert found["multiplicities"] == [2, 6]
    assert found["sites"] == [0, 2]
    assert found["lowest"] == min(found["formation_energies"])
    assert abs(found["unrelaxed_energies"][0] - found["unrelaxed_energies"][1]) > 1e-3


def test_compounds_need_to_know_where_atoms_go(binding) -> None:
    crystal = bulk("CuO", "rocksalt", a=4.2, cubic=True)
    settings = Settings(supercell=4.0, fmax=10.0, references={"Cu": -1.0, "O": -2.0, "CuO": 0.0})
    found = compute(crystal, binding, settings)
    assert found["elements"] == ["Cu", "O"]
    for i, (symbol, energy) in enumerate((("Cu", -1.0), ("O", -2.0))):
        hole = crystal.copy()
        del hole[found["sites"][i]]
        assert crystal.symbols[found["sites"][i]] == symbol
        by_hand = binding.predict(hole).energy + energy - binding.predict(crystal).energy
        assert found["unrelaxed_energies"][i] == pytest.approx(by_hand, abs=1e-8)
    with pytest.raises(PropertyError, match="no reference energy for Cu"):
        compute(crystal, binding, Settings())
    with pytest.raises(OptionError, match="must be a number"):
        Settings(references={"Cu": "cheap"})

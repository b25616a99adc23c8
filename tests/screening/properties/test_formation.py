"""Formation energies and hulls against hulls found by trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase.build import bulk

from mlip.errors import OptionError, PropertyError
from mlip.screening.properties.formation import Settings, composition, compute, hull_energy


def test_compositions() -> None:
    assert composition("Al2O3") == {"Al": 0.4, "O": 0.6}
    assert composition("Ca(OH)2") == {"Ca": 0.2, "O": 0.4, "H": 0.4}
    for wrong in ("", "12", "Xy2", "Ni-Cu"):
        with pytest.raises(OptionError, match="no chemical formula"):
            composition(wrong)


def test_a_tie_line() -> None:
    references = {"Ni": -1.0, "Cu": 0.0, "Ni3Cu": -1.0, "NiCu": -0.6}  # the last lies above the line between others
    energy, parts = hull_energy({"Ni": 0.5, "Cu": 0.5}, references)
    assert energy == pytest.approx(-2 / 3)
    assert parts == pytest.approx({"Ni3Cu": 2 / 3, "Cu": 1 / 3})
    energy, parts = hull_energy({"Ni": 0.75, "Cu": 0.25}, references)
    assert energy == pytest.approx(-1.0)
    assert parts == pytest.approx({"Ni3Cu": 1.0})


def test_against_all_mixtures_of_three() -> None:
    """In a system of three elements the lowest mixture has at most three phases: try every three."""
    random = np.random.default_rng(0)
    references = {"Ni": 0.0, "Cu": 0.0, "Li": 0.0}
    while len(references) < 25:
        counts = random.integers(0, 5, 3)
        if counts.any():
            formula = "".join(f"{s}{n}" for s, n in zip(("Ni", "Cu", "Li"), counts, strict=True) if n)
            references[formula] = random.normal()
    for _ in range(5):
        x = random.dirichlet(np.ones(3))
        best = np.inf
        for three in itertools.combinations(references, 3):
            shares = np.array([[composition(f).get(s, 0.0) for f in three] for s in ("Ni", "Cu", "Li")])
            if abs(np.linalg.det(shares)) > 1e-9 and (w := np.linalg.solve(shares, x)).min() > -1e-12:
                best = min(best, float(w @ [references[f] for f in three]))
        energy, parts = hull_energy(dict(zip(("Ni", "Cu", "Li"), x, strict=True)), references)
        assert energy == pytest.approx(best, abs=1e-9)
        assert sum(parts.values()) == pytest.approx(1.0)


def test_of_a_crystal(elements, relaxed, binding) -> None:
    energy = elements.predict(relaxed("Cu")).energy
    found = compute(relaxed("Cu", cubic=True), elements, Settings({"Cu": energy}))
    assert found["energy"] == pytest.approx(energy, abs=1e-8)
    assert found["formation_energy"] == pytest.approx(0, abs=1e-8)
    assert found["hull_distance"] == pytest.approx(0, abs=1e-8)
    assert found["decomposition"] == {"Cu": pytest.approx(1.0)}
    oxide = bulk("CuO", "rocksalt", a=4.2)
    energy = binding.predict(oxide).energy / 2
    references = {"Cu": energy - 1.0, "O": energy + 3.0, "O2": energy + 2.0, "Cu2O": energy + 0.4}
    found = compute(oxide, binding, Settings(references))
    assert found["formation_energy"] == pytest.approx(-0.5)  # of two oxygens the lower
    assert found["hull_distance"] == pytest.approx(-0.5)  # a new phase, below the line from Cu to O2
    assert found["decomposition"] == pytest.approx({"Cu": 0.5, "O2": 0.5})


def test_no_references(elements, binding) -> None:
    with pytest.raises(PropertyError, match="no reference energy for Cu"):
        compute(bulk("Cu"), elements, Settings())
    with pytest.raises(PropertyError, match="no reference energy for O"):
        compute(bulk("CuO", "rocksalt", a=4.2), binding, Settings({"Cu": 1.0, "CuO": 1.0}))
    with pytest.raises(OptionError, match="the reference of Cu must be a number"):
        Settings({"Cu": float("nan")})
    with pytest.raises(OptionError, match="no chemical formula"):
        Settings({"Cupper": 1.0})

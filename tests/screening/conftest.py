"""A random potential that binds copper, and a folder of structures."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import write

import mlip


@pytest.fixture(scope="session")
def binding() -> mlip.Potential:
    """A small random MACE, float64, whose energy of fcc copper has a minimum near a = 3.3 A."""
    return mlip.create("mace", ["H", "C", "O", "Cu"], seed=0, channels=4, hidden_lmax=1, edge_lmax=2, correlation=2,
                       radial_mlp=(16,), pair_repulsion=True, cutoff=4.0, dtype="float64", avg_num_neighbors=4.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two crystals in one file, one in another, a molecule, a broken file, an unknown element, and a README."""
    place = tmp_path / "structures"
    place.mkdir()
    write(place / "fcc.cif", bulk("Cu", "fcc", a=3.35))
    write(place / "pair.xyz", [bulk("Cu", "fcc", a=3.3), bulk("Cu", "sc", a=2.45)], format="extxyz")
    write(place / "molecule.xyz", molecule("CH3OH"), format="extxyz")
    (place / "broken.cif").write_text("no structure\n")
    write(place / "gold.vasp", bulk("Au", "fcc", a=4.1))
    (place / "README.txt").write_text("not a structure\n")
    (place / "sub.cif").mkdir()
    return place

"""Models with more or fewer elements and one head of several: the same numbers for what both know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import mlip
from mlip import Potential
from mlip.checkpoints.resized import with_elements, with_head
from mlip.elements import NUMBERS, SYMBOLS, nearest_element, place
from mlip.errors import OptionError, UnknownElementError

Make = Callable[[Sequence[str]], Potential]
WATER = [Atoms("OH2", [[0, 0, 0.1], [0, 0.8, -0.5], [0.1, -0.7, -0.4]]),
         Atoms("OHO", [[0, 0, 0], [1.1, 0, 0], [2.3, 0.2, 0.4]], cell=[4, 3, 3.5], pbc=True)]


def numbers(*symbols: str) -> list[int]:
    return [NUMBERS[s] for s in symbols]


def difference(one: Potential, other: Potential, atoms: Sequence[Atoms] = WATER) -> float:
    """Return the largest difference of energies, forces and stress; in those above 1, as a share of the largest."""
    worst = 0.0
    for p, q in zip(one.predict(atoms), other.predict(atoms), strict=True):
        for name in ("energies", "forces", *(["stress"] if p.stress is not None else [])):
            a, b = getattr(p, name), getattr(q, name)
            worst = max(worst, float(np.abs(a - b).max() / max(1.0, np.abs(a).max())))
    return worst


class TestElements:
    def test_more(self, of_elements: Make) -> None:
        old = of_elements(["H", "O"])
        before = {k: v.clone() for k, v in old.model.state_dict().items()}
        new = with_elements(old, numbers("O", "H", "He", "S", "Na"))
        assert new.elements == ("H", "He", "O", "Na", "S")
        assert difference(old, new) < 1e-12
        assert all(torch.equal(v, before[k]) for k, v in old.model.state_dict().items())

    def test_fewer(self, of_elements: Make) -> None:
        old = of_elements(["H", "C", "O", "Cu"])
        new = with_elements(old, numbers("H", "O"))
        assert difference(old, new) < 1e-12
        with pytest.raises(UnknownElementError):
            new.predict(Atoms("C"))

    def test_as_many_but_others(self, of_elements: Make) -> None:
        old = of_elements(["H", "C", "O"])
        new = with_elements(old, numbers("H", "O", "Cu"))
        assert new.elements == ("H", "O", "Cu")
        assert difference(old, new) < 1e-12

    def test_there_and_back(self, of_elements: Make) -> None:
        old = of_elements(["H", "O"])
        back = with_elements(with_elements(old, numbers("H", "O", "S")), numbers("H", "O"))
        for key, value in old.model.state_dict().items():
            assert (back.model.state_dict()[key] - value).abs().max() < 1e-14, key

    def test_a_new_element_begins_as_the_one_most_like_it(self, of_elements: Make) -> None:
        """But for the constants of the family that know elements: radii and the ZBL repulsion."""
        new = with_elements(of_elements(["H", "O"]), numbers("H", "O", "S"))
        sulfides = [Atoms([{8: 16}.get(z, z) for z in a.numbers], a.positions, cell=a.cell, pbc=a.pbc) for a in WATER]
        own_energies = new.model.atomic_energies[0]
        for water, sulfide in zip(new.predict(WATER), new.predict(sulfides), strict=True):
            shift = own_energies[2] - own_energies[1]
            changed = np.abs(water.energies - sulfide.energies) > 1e-12
            if getattr(new.model.config, "pair_repulsion", False):
                assert changed.all()
            else:
                assert np.abs(water.forces - sulfide.forces).max() < 1e-12
                assert np.abs(sulfide.energies - water.energies)[changed] == pytest.approx(abs(float(shift)), abs=1e-12)

    def test_the_same(self, of_elements: Make) -> None:
        old = of_elements(["H", "O"])
        assert with_elements(old, numbers("O", "H")) is old

    def test_files(self, of_elements: Make, tmp_path: Path) -> None:
        new = with_elements(of_elements(["H", "O"]), numbers("H", "O", "S"))
        assert difference(new, mlip.load(new.save(tmp_path / "new.mlip"))) == 0.0


def heads(dtype: str = "float64", **options: object) -> Potential:
    potential = mlip.create("mace", ["H", "O"], heads=("pbe", "scan", "r2scan"), channels=4, edge_lmax=2, cutoff=4.0,
                            correlation=2, radial_mlp=(8,), dtype=dtype, **options)
    generator = torch.Generator().manual_seed(3)
    for label in ("atomic_energies", "scale", "shift"):
        buffer = potential.model.get_buffer(label)
        buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return potential


class TestHeads:
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("head", ["pbe", "scan", "r2scan"])
    def test_one_of_several(self, head: str, layers: int) -> None:
        old = heads(num_layers=layers)
        one = with_head(old, head)
        assert one.heads == (head,)
        named = [a.copy() for a in WATER]
        for atoms in named:
            atoms.info["head"] = head
        assert difference(old, one, named) < 1e-12
        for a, b in zip(one.predict(WATER), old.predict(named), strict=True):
            assert a.energy == pytest.approx(b.energy, abs=1e-12)

    def test_as_many_heads_as_elements(self) -> None:
        old = mlip.create("mace", ["H", "O"], heads=("a", "b"), channels=4, edge_lmax=1, cutoff=4.0, dtype="float64")
        named = [a.copy() for a in WATER]
        for atoms in named:
            atoms.info["head"] = "b"
        assert difference(old, with_elements(with_head(old, "b"), numbers("H", "O", "S")), named) < 1e-12

    def test_the_only_one(self, mace: Potential) -> None:
        assert with_head(mace, None) is mace
        assert with_head(mace, "default") is mace

    def test_refusals(self) -> None:
        with pytest.raises(OptionError, match="heads pbe, scan, r2scan; name the one"):
            with_head(heads(), None)
        with pytest.raises(OptionError, match="no head 'blyp'; allowed: pbe, scan, r2scan"):
            with_head(heads(), "blyp")


@pytest.mark.parametrize(("element", "known", "expected"), [
    ("S", "H C O", "O"), ("N", "H C O", "C"), ("Na", "Ne K Mg", "K"), ("Na", "Ne Mg", "Mg"), ("Br", "F Cl Kr", "Cl"),
    ("W", "Mo Re Ta", "Mo"), ("U", "Ca Ce Th", "Th"), ("Ge", "Si As Sn", "Si"), ("He", "H Ne", "Ne"),
    ("Cu", "Cu H", "Cu"), ("Hf", "Lu Zr", "Zr")])
def test_the_element_most_like_another(element: str, known: str, expected: str) -> None:
    assert nearest_element(NUMBERS[element], numbers(*known.split())) == NUMBERS[expected]


def test_places_in_the_periodic_table() -> None:
    found = {symbol: place(z) for z, symbol in enumerate(SYMBOLS) if z}
    expected = {"H": (1, 1), "He": (18, 1), "Li": (1, 2), "Be": (2, 2), "B": (13, 2), "Ne": (18, 2), "Ar": (18, 3),
                "Sc": (3, 4), "Zn": (12, 4), "Kr": (18, 4), "Ag": (11, 5), "La": (3, 6), "Lu": (3, 6), "Hf": (4, 6),
                "Au": (11, 6), "Rn": (18, 6), "Fr": (1, 7), "Ra": (2, 7), "U": (3, 7), "Rf": (4, 7), "Og": (18, 7)}
    assert {symbol: found[symbol] for symbol in expected} == expected

"""Distances of pairs against what is known of gases and crystals, and against the neighbour list."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from mlip.analysis import pairs
from mlip.analysis.molecules import molecules_of
from mlip.neighbors import neighbor_list

from .conftest import motion

pytest.importorskip("mdtraj")

SKEWED = np.array([[14.0, 0.0, 0.0], [6.0, 13.0, 0.0], [-5.0, 4.0, 15.0]])


def test_an_ideal_gas_has_no_structure() -> None:
    """In a skewed box that changes, with two elements, and with the noise that is told."""
    rng = np.random.default_rng(0)
    cells = SKEWED * rng.uniform(0.95, 1.05, 60)[:, None, None]
    positions = np.einsum("fni,fij->fnj", rng.uniform(0, 1, (60, 120, 3)), cells)
    found = pairs.pair_functions(motion([10] * 40 + [18] * 80, positions, cells), np.arange(120))
    assert [f.name for f in found] == ["Ar-Ne", "Ar-Ar", "Ne-Ne"]
    assert [f.pairs for f in found] == [3200, 3160, 780]
    for one in found:
        assert one.radial
        assert one.r[-1] == pytest.approx(pairs.widths(cells).min() / 2, abs=0.1)
        far = one.r > 1.0
        deviation = (one.g - 1.0)[far] / one.noise[far]
        assert deviation.mean() == pytest.approx(0.0, abs=0.35)
        assert deviation.std() == pytest.approx(1.0, abs=0.2)
        assert one.peak() is None


def test_counts_are_those_of_the_neighbour_list() -> None:
    rng = np.random.default_rng(2)
    positions = rng.uniform(0, 1, (1, 50, 3)) @ SKEWED
    (one,) = pairs.pair_functions(motion([18] * 50, positions, SKEWED), np.arange(50))
    edges = np.arange(len(one.r) + 1) * pairs.BIN
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    counts = one.g * shells * one.pairs / np.linalg.det(SKEWED)
    edge_list = neighbor_list(positions[0], float(edges[-1]), SKEWED, True)
    assert counts.sum() == pytest.approx(len(edge_list.senders) / 2, abs=0.01)


def test_the_shells_of_a_crystal() -> None:
    """Copper: 12 neighbours at a / sqrt(2)."""
    copper = bulk("Cu", a=3.6, cubic=True).repeat(3)
    (one,) = pairs.pair_functions(motion(copper.numbers, copper.positions[None], copper.cell.array),
                                  np.zeros(len(copper), dtype=int))
    place, _ = one.peak()
    assert place == pytest.approx(3.6 / np.sqrt(2), abs=pairs.BIN)
    first = one.r < 3.0
    density = len(copper) / copper.get_volume()
    around = (one.g * 4 * np.pi * one.r**2 * pairs.BIN)[first].sum() * density * (len(copper) - 1) / len(copper)
    assert around == pytest.approx(12.0, rel=1e-3)


def test_pairs_within_molecules_are_left_out() -> None:
    water = molecule("H2O")
    positions = np.concatenate([water.positions + shift for shift in ([0, 0, 0], [5, 0, 0], [0, 5, 0])])[None]
    run = motion(np.tile(water.numbers, 3), positions, np.diag([12.0] * 3))
    found = {f.name: f for f in pairs.pair_functions(run, molecules_of(run).number)}
    assert {name: f.pairs for name, f in found.items()} == {"O-H": 12, "H-H": 12, "O-O": 3}
    assert found["O-H"].g[found["O-H"].r < 2].sum() == 0


def test_distances_without_periodicity() -> None:
    water = molecule("H2O")
    run = motion(water.numbers, water.positions[None])
    found = {f.name: f for f in pairs.pair_functions(run, np.zeros(3, dtype=int))}
    assert not found["O-H"].radial
    assert found["O-H"].peak()[0] == pytest.approx(water.get_distance(0, 1), abs=pairs.BIN)
    assert found["O-H"].g.sum() * pairs.BIN == pytest.approx(1.0)


def test_many_atoms_are_thinned(monkeypatch) -> None:
    """Every third atom and every other frame give the same structure."""
    rng = np.random.default_rng(3)
    run = motion([18] * 100, rng.uniform(0, 12, (40, 100, 3)), np.diag([12.0] * 3))
    monkeypatch.setattr(pairs, "PAIRS", 1700)
    monkeypatch.setattr(pairs, "DISTANCES", 34000)
    (one,) = pairs.pair_functions(run, np.arange(100))
    assert one.frames == 20
    assert one.pairs == 34 * 33 // 2 + 34 * 66
    far = one.r > 2
    assert one.g[far].mean() == pytest.approx(1.0, abs=0.03)


def test_a_box_too_small() -> None:
    copper = bulk("Cu", cubic=True)
    assert pairs.pair_functions(motion(copper.numbers, copper.positions[None], copper.cell.array),
                                np.zeros(4, dtype=int)) == []

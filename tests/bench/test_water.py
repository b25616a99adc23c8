"""Boxes of water."""

from __future__ import annotations

import numpy as np
import pytest

from mlip.bench.water import DENSITY, water_box
from mlip.errors import OptionError
from mlip.neighbors import neighbor_list


@pytest.mark.parametrize(("asked", "atoms"), [(3, 3), (24, 24), (96, 96), (192, 192), (768, 768), (12_288, 12_288),
                                              (12_000, 12_288), (50_000, 48_384)])
def test_sizes_and_density(asked: int, atoms: int) -> None:
    box = water_box(asked)
    assert len(box) == atoms
    assert box.pbc.all()
    grams = atoms / 3 * 18.01528 / 6.02214076e23
    assert box.volume is not None
    assert np.isclose(grams / (box.volume * 1e-24), DENSITY)
    assert (np.bincount(box.numbers)[[1, 8]] == [2 * atoms / 3, atoms / 3]).all()


def test_molecules_are_whole_and_apart() -> None:
    box = water_box(192)
    assert np.allclose(box.cell, np.eye(3) * 12.43, atol=0.005)
    edges = neighbor_list(box.positions, 5.0, box.cell, True)
    assert abs(len(edges.senders) - 10_500) < 200
    vectors = box.positions[edges.senders] - box.positions[edges.receivers] + edges.shifts @ box.cell
    r = np.linalg.norm(vectors, axis=1)
    bonds = r < 1.0
    assert bonds.sum() == 2 * 128
    assert np.allclose(r[bonds], 0.9572)
    inside = edges.senders // 3 == edges.receivers // 3
    assert r[~inside].min() > 0.8


def test_larger_boxes_repeat_the_cell_of_64() -> None:
    small, large = water_box(192), water_box(384)
    assert np.allclose(large.positions[:192], small.positions)
    assert np.allclose(large.positions[192:] - small.positions, [0, 0, small.cell[2, 2]])
    edges = [len(neighbor_list(b.positions, 5.0, b.cell, True).senders) for b in (small, large)]
    assert edges[1] == 2 * edges[0]


def test_the_seed_decides() -> None:
    assert (water_box(24, 1).positions == water_box(24, 1).positions).all()
    assert (water_box(24, 1).positions != water_box(24, 2).positions).any()


def test_no_water() -> None:
    with pytest.raises(OptionError, match="2 were asked for"):
        water_box(2)

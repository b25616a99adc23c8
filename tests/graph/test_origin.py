"""In float32 the place of a structure in space, and the images its atoms sit in, must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlip
from mlip.graph import Structure, build_graph
from mlip.graph.origin import near_origin
from mlip.neighbors import neighbor_list

CELLS = [
    (None, False),
    ([[4.1, 0.2, -0.3], [1.9, 4.4, 0.4], [-1.2, 0.9, 5.0]], True),
    ([[1.9, 4.4, 0.4], [4.1, 0.2, -0.3], [-1.2, 0.9, 5.0]], [True, True, False]),
    ([[0, 0, 0], [0, 5.0, 1.0], [0, 0, 0]], [False, True, False]),
]


@pytest.mark.parametrize(("cell", "pbc"), CELLS)
def test_edge_vectors_are_kept(cell: object, pbc: object) -> None:
    positions = np.random.default_rng(1).normal(scale=3.0, size=(12, 3)) + 30
    s = Structure.create([6] * 12, positions, cell, pbc)  # type: ignore[arg-type]
    edges = neighbor_list(s.positions, 4.0, s.cell, s.pbc)
    moved, shifts = near_origin(s, edges)
    before = s.positions[edges.senders] - s.positions[edges.receivers] + edges.shifts @ s.cell
    after = moved[edges.senders] - moved[edges.receivers] + shifts @ s.cell
    assert len(edges.senders) > 4
    np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("far", [1e2, 1e4])
def test_forces_far_from_the_origin(far: float, mace: mlip.Potential) -> None:
    single = mace.to(dtype="float32")
    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.1]])
    here, there = (Structure.create([8, 1, 1], positions + d, None, False) for d in (0.0, far))
    a, b = single.evaluate([here, there])
    assert a.forces is not None
    assert b.forces is not None
    assert np.abs(a.forces - b.forces).max() < 1e-5 * max(1.0, np.abs(a.forces).max())


def test_float64_positions_are_left_alone() -> None:
    s = Structure.create([8], [[100.0, 0, 0]])
    assert build_graph([s], 3.0, dtype=torch.float64).positions[0, 0] == 100.0
    assert build_graph([s], 3.0, dtype=torch.float32).positions[0, 0] == 0.0

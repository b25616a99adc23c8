"""The shortest edge is the one that plain numpy finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlip.neighbors import neighbor_list, shortest_edge


@pytest.mark.parametrize("pbc", [False, True, (True, False, True)])
def test_it_is_that_of_numpy(pbc) -> None:
    generator = np.random.default_rng(0)
    cell = np.diag([5.0, 6.0, 7.0]) + generator.normal(0, 0.5, (3, 3))
    for _ in range(20):
        r = generator.uniform(-8, 8, (30, 3))
        edges = neighbor_list(r, 3.0, cell, pbc)
        vectors = r[edges.senders] - r[edges.receivers] + edges.shifts @ cell
        squares = (vectors**2).sum(axis=1)
        index, square = shortest_edge(r, cell, edges)
        assert square == pytest.approx(squares.min(), rel=1e-12)
        assert squares[index] == pytest.approx(square, rel=1e-12)


def test_there_may_be_none() -> None:
    none = neighbor_list(np.zeros((1, 3)), 3.0, None, False)
    assert shortest_edge(np.zeros((1, 3)), np.zeros((3, 3)), none) == (-1, math.inf)

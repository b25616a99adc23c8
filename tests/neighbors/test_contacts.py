"""The closest contact is the one that plain numpy finds."""

from __future__ import annotations

import numpy as np
import pytest

from mlip.neighbors import closest_contact, neighbor_list


@pytest.mark.parametrize("pbc", [False, True, (True, False, True)])
def test_it_is_that_of_numpy(pbc) -> None:
    generator = np.random.default_rng(0)
    cell = np.diag([5.0, 6.0, 7.0]) + generator.normal(0, 0.5, (3, 3))
    size = generator.uniform(0.5, 1.5, 30)
    for _ in range(20):
        r = generator.uniform(-8, 8, (30, 3))
        edges = neighbor_list(r, 3.0, cell, pbc)
        vectors = r[edges.senders] - r[edges.receivers] + edges.shifts @ cell
        depth = np.linalg.norm(vectors, axis=1) / (size[edges.senders] + size[edges.receivers])
        i, j, distance = closest_contact(r, cell, edges, size)
        assert distance / (size[i] + size[j]) == pytest.approx(depth.min(), rel=1e-12)
        assert closest_contact(r, cell, edges, size * (depth.min() * (1 - 1e-9))) is None
        assert closest_contact(r, cell, edges, size * (depth.min() * (1 + 1e-9)))[2] == distance


def test_there_may_be_none() -> None:
    none = neighbor_list(np.zeros((1, 3)), 3.0, None, False)
    assert closest_contact(np.zeros((1, 3)), None, none, np.ones(1)) is None

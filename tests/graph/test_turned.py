"""Turned batches: the numbers of structures that were turned before the neighbour search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip import Structure
from mlip.graph import AtomGraph, build_graph, turned, turned_each

CELL = np.array([[3.0, 0.2, 0.0], [0.1, 3.3, 0.4], [0.0, -0.3, 3.6]])


def structures() -> list[Structure]:
    r = np.random.default_rng(0).uniform(-2, 5, (3, 3))
    return [Structure.create([1, 8, 8], r, CELL, True, charge=1), Structure.create([], []),
            Structure.create([6, 1], [[0, 0, 0], [0.9, 0.5, 0.1]], spin=3)]


def orthogonal(count: int) -> Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(count, 3, 3)))
    return torch.from_numpy(q)


def assert_valid(graph: AtomGraph) -> None:
    """Check what the layers rely on: order of edges, edges within structures, pairs of one distance."""
    sender, receiver = graph.edge_index
    assert (receiver.diff() >= 0).all()
    assert torch.equal(graph.batch[sender], graph.batch[receiver])
    distance = graph.vectors().norm(dim=1)
    assert torch.equal(graph.pair[graph.pair_edge], torch.arange(len(graph.pair_edge)))
    assert int(graph.pair.bincount().max()) <= 2
    torch.testing.assert_close(distance[graph.pair_edge][graph.pair], distance, rtol=0, atol=1e-13)


def test_copies_by_every_matrix() -> None:
    graph, matrices = build_graph(structures(), 2.5), orthogonal(4)
    found = turned(graph, matrices)
    assert (found.num_structures, found.num_atoms) == (12, 20)
    assert_valid(found)
    vectors = found.vectors().view(4, -1, 3)
    torch.testing.assert_close(vectors, graph.vectors() @ matrices, rtol=0, atol=1e-13)
    cells = found.cell.view(4, 3, 3, 3)
    torch.testing.assert_close(cells, graph.cell @ matrices[:, None], rtol=0, atol=1e-13)
    assert found.batch.view(4, -1).tolist() == [[3 * g + b for b in graph.batch.tolist()] for g in range(4)]
    for name in ("numbers", "charge", "spin", "head", "shifts"):
        values = getattr(graph, name)
        assert torch.equal(getattr(found, name).view(4, *values.shape), values.expand(4, *values.shape)), name
    assert torch.equal(found.volume.view(4, 3).nan_to_num(), graph.volume.nan_to_num().expand(4, 3))


def test_a_matrix_for_each_structure() -> None:
    graph, matrices = build_graph(structures(), 2.5), orthogonal(3)
    found = turned_each(graph, matrices)
    assert_valid(found)
    expected = torch.einsum("ed,edf->ef", graph.vectors(), matrices[graph.batch[graph.edge_index[1]]])
    torch.testing.assert_close(found.vectors(), expected, rtol=0, atol=1e-13)
    for field in dataclasses.fields(graph):
        if field.name not in ("positions", "cell"):
            assert getattr(found, field.name) is getattr(graph, field.name)


@pytest.mark.parametrize("turn", [turned, turned_each])
def test_derivatives(turn: Callable[[AtomGraph, Tensor], AtomGraph]) -> None:
    graph = build_graph(structures(), 2.0)

    def vectors(positions: Tensor, cell: Tensor, matrices: Tensor) -> Tensor:
        return turn(graph.replace(positions=positions, cell=cell), matrices).vectors()

    inputs = (graph.positions, graph.cell, orthogonal(3))
    assert torch.autograd.gradcheck(vectors, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("count", [0, 1])
def test_few_matrices(count: int) -> None:
    graph = build_graph(structures(), 2.5)
    found = turned(graph, torch.eye(3, dtype=torch.float64).expand(count, 3, 3))
    assert (found.num_structures, found.num_atoms) == (3 * count, 5 * count)
    assert found.edge_index.shape == (2, count * graph.edge_index.shape[1])
    if count:
        assert torch.equal(found.vectors(), graph.vectors())

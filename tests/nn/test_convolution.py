"""Blocks of receivers, with and without recomputation: the same numbers as all at once, and as plain torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

import mlip
from mlip.graph import AtomGraph
from mlip.io.ase import structure_of
from mlip.nn import convolution
from mlip.nn.derivatives import evaluate
from mlip.ops import compiled_is_available

needs_kernels = pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")


@pytest.fixture(params=[(1 << 40, 1 << 40), (1 << 40, 0), (4096, 1 << 40), (4096, 0), (1, 0)], ids=str)
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes of a block, and bytes that are kept."""
    monkeypatch.setattr(convolution, "BLOCK", request.param[0])
    monkeypatch.setattr(convolution, "KEEP", request.param[1])
    return request.param


@pytest.fixture
def graph(potential: mlip.Potential) -> AtomGraph:
    rng = np.random.default_rng(3)
    first = Atoms("H4C3O2Cu", rng.uniform(0, 5, (10, 3)), cell=np.eye(3) * 5 + 0.3, pbc=True)
    second = Atoms("H3O", rng.uniform(0, 4, (4, 3)))
    return potential.graph([structure_of(first), structure_of(second)])


@needs_kernels
class TestBlocks:
    def test_energies_forces_and_stress(self, potential: mlip.Potential, graph: AtomGraph,
                                        size: tuple[int, int]) -> None:
        found = evaluate(potential.model, graph, stress=True)
        with potential.model.using("reference"):
            expected = evaluate(potential.model, graph, stress=True)
        for name in ("interaction", "forces", "stress"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, equal_nan=True)

    def test_hessian(self, potential: mlip.Potential, graph: AtomGraph, size: tuple[int, int]) -> None:
        def product(v: Tensor) -> Tensor:
            r = graph.positions.clone().requires_grad_()
            (force,) = torch.autograd.grad(potential.model(graph.replace(positions=r)).sum(), r, create_graph=True)
            return torch.autograd.grad((force * v).sum(), r)[0]

        v = torch.from_numpy(np.random.default_rng(0).normal(size=graph.positions.shape))
        found = product(v)
        with potential.model.using("reference"):
            torch.testing.assert_close(found, product(v), rtol=0, atol=1e-9)


def test_blocks_cover_all_edges_once(potential: mlip.Potential, graph: AtomGraph) -> None:
    edges = graph.edges()
    blocks = convolution.blocks_of(edges, len(graph.pair_edge), 1 << 21)
    assert len(blocks) > 3
    assert [b.receivers[0] for b in blocks] == [0, *(b.receivers[1] for b in blocks[:-1])]
    assert blocks[-1].receivers[1] == graph.num_atoms
    for b in blocks:
        assert b.atoms is not None
        assert b.pairs is not None
        place = slice(b.first, b.first + len(b.edges.sender))
        assert torch.equal(b.atoms[b.edges.sender], edges.sender[place])
        assert torch.equal(b.pairs[b.edges.row], edges.row[place])
        assert torch.equal(b.edges.receiver + b.receivers[0], edges.receiver[place])


@needs_kernels
def test_training_gradients_equal_those_of_plain_torch(mace: mlip.Potential) -> None:
    atoms = Atoms("H4C3O2Cu", np.random.default_rng(1).uniform(0, 5, (10, 3)), cell=np.eye(3) * 5, pbc=True)
    graph, gradients = mace.graph([structure_of(atoms)]), []
    for backend in ("compiled", "reference"):
        model = copy.deepcopy(mace.model).requires_grad_(True)
        model.set_backend(backend)
        p = evaluate(model, graph, training=True)
        assert p.forces is not None
        (p.energy.square().sum() * 1e-6 + p.forces.square().sum()).backward()
        gradients.append({name: w.grad for name, w in model.named_parameters()})
    assert all(g is not None for g in gradients[1].values())
    for name, theirs in gradients[1].items():
        scale = float(theirs.abs().max())
        torch.testing.assert_close(gradients[0][name], theirs, rtol=0, atol=1e-9 * max(scale, 1e-3), msg=name)

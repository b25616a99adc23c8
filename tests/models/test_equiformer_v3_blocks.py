"""EquiformerV3 in blocks of receivers, atoms and rows: however it is cut, the numbers are those of plain torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

import mlip
from mlip import Potential
from mlip.io.ase import structure_of
from mlip.models.equiformer_v3 import blocked, feed_forward
from mlip.nn import rowwise
from mlip.nn.derivatives import evaluate
from mlip.ops._library import LIBRARY

pytestmark = pytest.mark.skipif(LIBRARY.path is None, reason=f"no compiled kernels: {LIBRARY.problem}")
SMALL: dict[str, Any] = {"lmax": 3, "mmax": 2, "channels": 6, "num_layers": 2, "num_heads": 2, "attention_hidden": 5,
                         "attention_alpha": 3, "attention_value": 4, "feed_forward_hidden": 7, "edge_channels": 8,
                         "num_gaussians": 6, "avg_num_neighbors": 4.0, "cutoff": 4.0}
CUTS = [(1, 1, 1, 1), (7, 20, 2, 5), (30, 60, 3, 16), (10**6, 10**6, 64, 4096)]  # edges, rows, atoms, rows of frames


@pytest.fixture(scope="module")
def potential() -> Potential:
    return mlip.create("equiformer_v3", ["H", "C", "O", "Cu"], dtype="float64", **SMALL)


def cut(monkeypatch: pytest.MonkeyPatch, edges: int, rows: int, atoms: int, frames: int, kept: int) -> None:
    for module, name, value in ((blocked, "EDGES", edges), (blocked, "ROWS", max(rows, edges)), (blocked, "KEEP", kept),
                                (blocked, "KEEP_ALL", kept), (feed_forward, "ATOMS", atoms),
                                (feed_forward, "KEEP", kept), (rowwise, "ROWS", frames)):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("kept", [0, 1 << 40])
@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize("name", ["cubic", "slab", "wire", "molecule"])
def test_equal_to_plain_torch(name: str, sizes: tuple[int, ...], kept: int, potential: Potential,
                              structures: dict[str, Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, *sizes, kept)
    lone = Atoms("HOCu", [[0, 0, 0], [50, 0, 0], [0, 50, 0]])  # receivers without edges, in front and behind
    graph = potential.graph([structure_of(a) for a in (lone, structures[name], lone)])
    found = evaluate(potential.model, graph, stress=True)
    with potential.model.using("reference"):
        expected = evaluate(potential.model, graph, stress=True)
    for field in ("energies", "forces", "stress"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=0, atol=1e-12, equal_nan=True)


def test_every_edge_is_in_one_block(potential: Potential, structures: dict[str, Atoms],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 10, 20, 3, 16, 0)
    edges = potential.model.neighbourhood(potential.graph([structure_of(structures["cubic"])]))
    blocks = [block for chunk in edges.chunks for block in chunk.blocks]
    assert len(edges.chunks) > 1
    assert [b.first for b in blocks] == [0, *(b.last for b in blocks[:-1])]
    assert [b.begin for b in blocks] == [0, *(b.end for b in blocks[:-1])]
    assert (blocks[-1].last, blocks[-1].end) == (len(edges.offsets) - 1, len(edges.sender))
    for chunk in edges.chunks:
        assert chunk.rows is not None
        whole = slice(chunk.blocks[0].begin, chunk.blocks[-1].end)
        assert torch.equal(chunk.rows[chunk.row], edges.row[whole])


def test_derivatives_of_forces(potential: Potential, structures: dict[str, Atoms],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of the Hessian through blocks, against differences of forces."""
    cut(monkeypatch, 7, 20, 2, 5, 0)
    structure = structure_of(structures["wire"])
    graph = potential.graph([structure])
    positions = graph.positions.clone().requires_grad_()
    energy = potential.model(graph.replace(positions=positions)).sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    (column,) = torch.autograd.grad(gradient[1, 0], positions)
    step, forces = 1e-4, []
    for sign in (1, -1):
        moved = graph.positions.clone()
        moved[1, 0] += sign * step
        found = evaluate(potential.model, graph.replace(positions=moved)).forces
        assert found is not None
        forces.append(found)
    np.testing.assert_allclose(column, (forces[1] - forces[0]) / (2 * step), rtol=0, atol=1e-6)

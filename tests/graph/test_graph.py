"""Batches: what belongs to which structure, edge vectors, heads, coincident atoms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import mlip
from mlip import Structure
from mlip.errors import OptionError, StructureError, UnknownElementError
from mlip.graph import build_graph, check_elements
from mlip.neighbors import NeighborList, neighbor_list

CELL = np.array([[3.0, 0.2, 0.0], [0.1, 3.3, 0.4], [0.0, -0.3, 3.6]])


def crystal(seed: int = 0) -> Structure:
    return Structure.create([1, 8, 8], np.random.default_rng(seed).uniform(-2, 5, (3, 3)), CELL, True, charge=1)


def molecule() -> Structure:
    return Structure.create([6, 1], [[0, 0, 0], [0.9, 0.5, 0.1]], spin=3)


def test_fields_of_a_batch() -> None:
    structures = [crystal(), molecule(), Structure.create([], []), crystal(1)]
    graph = build_graph(structures, 2.5)
    assert (graph.num_atoms, graph.num_structures) == (8, 4)
    assert graph.batch.tolist() == [0, 0, 0, 1, 1, 3, 3, 3]
    assert graph.numbers.tolist() == [1, 8, 8, 6, 1, 1, 8, 8]
    assert graph.charge.tolist() == [1, 0, 0, 1]
    assert graph.spin.tolist() == [1, 3, 1, 1]
    assert graph.head.tolist() == [0, 0, 0, 0]
    assert graph.volume[[0, 3]].tolist() == pytest.approx([abs(np.linalg.det(CELL))] * 2)
    assert torch.isnan(graph.volume[[1, 2]]).all()
    for field in dataclasses.fields(graph):
        tensor = getattr(graph, field.name)
        expected = torch.float64 if field.name in ("positions", "cell", "shifts", "volume") else torch.int64
        assert tensor.dtype == expected, field.name


def test_edges_of_a_batch_are_those_of_its_parts() -> None:
    structures = [crystal(), molecule(), crystal(1)]
    graph = build_graph(structures, 2.5)
    sender, receiver = graph.edge_index
    assert (receiver.diff() >= 0).all()  # sorted by receiver
    assert torch.equal(graph.batch[sender], graph.batch[receiver])
    start = first = 0
    for structure in structures:
        alone = build_graph([structure], 2.5)
        part = slice(start, start + alone.edge_index.shape[1])
        assert torch.equal(graph.edge_index[:, part] - first, alone.edge_index)
        assert torch.equal(graph.shifts[part], alone.shifts)
        assert torch.equal(graph.vectors()[part], alone.vectors())
        start, first = part.stop, first + len(structure)
    assert start == graph.edge_index.shape[1]


def test_edge_vectors() -> None:
    structure = crystal()
    graph = build_graph([structure], 4.0)
    j, i = graph.edge_index.numpy()
    expected = structure.positions[j] + graph.shifts.numpy() @ CELL - structure.positions[i]
    np.testing.assert_allclose(graph.vectors(), expected, rtol=0, atol=1e-14)
    lengths = np.linalg.norm(expected, axis=1)
    assert len(lengths) > 20
    assert lengths.max() < 4.0
    back = set(zip(i.tolist(), j.tolist(), map(tuple, (-graph.shifts).tolist()), strict=True))
    assert back == set(zip(j.tolist(), i.tolist(), map(tuple, graph.shifts.tolist()), strict=True))


def test_edge_vectors_can_be_differentiated() -> None:
    graph = build_graph([crystal(), crystal(1)], 2.0)
    positions, cell = graph.positions.requires_grad_(), graph.cell.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, h: graph.replace(positions=p, cell=h).vectors(), (positions, cell))


def test_coordinates_are_float64_and_vectors_as_asked_for() -> None:
    graph = build_graph([crystal()], 2.5).to("cpu")
    assert graph.positions.dtype == graph.cell.dtype == graph.shifts.dtype == torch.float64
    assert graph.numbers.dtype == torch.int64
    assert graph.vectors(torch.float32).dtype == torch.float32
    assert torch.equal(graph.vectors(torch.float32), graph.vectors().float())


@pytest.mark.parametrize("distance", [1e2, 1e4])
def test_float32_forces_far_from_the_origin(distance: float, mace: mlip.Potential) -> None:
    """Also of two molecules that are far from each other: no choice of origin would help them."""
    single, water = mace.to(dtype="float32"), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.1]])
    alone = Structure.create([8, 1, 1], water)
    both = Structure.create([8, 1, 1] * 2, np.concatenate([water, water + distance]))
    near, far = (single.evaluate([s])[0].forces for s in (alone, both))
    assert near is not None
    assert far is not None
    assert np.abs(far - np.concatenate([near, near])).max() < 2e-5 * max(1.0, np.abs(near).max())


def test_nothing() -> None:
    graph = build_graph([], 2.5)
    assert (graph.num_atoms, graph.num_structures) == (0, 0)
    assert graph.edge_index.shape == (2, 0)
    assert graph.vectors().shape == (0, 3)


def test_known_edges_are_used() -> None:
    structures = [crystal(), molecule()]
    lists = [neighbor_list(s.positions, 2.5, s.cell, s.pbc) for s in structures]
    a, b = build_graph(structures, 2.5), build_graph(structures, 99.0, edges=lists)
    assert torch.equal(a.edge_index, b.edge_index)
    assert torch.equal(a.shifts, b.shifts)
    empty = NeighborList(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int32))
    assert build_graph([molecule()], 2.5, edges=[empty]).edge_index.shape == (2, 0)
    with pytest.raises(ValueError, match="zip"):
        build_graph(structures, 2.5, edges=lists[:1])


class TestCoincidentAtoms:
    def test_names_the_atoms(self) -> None:
        double = Structure.create([1, 8, 1, 8], [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1.0000001]])
        with pytest.raises(StructureError, match=r"atoms 1 and 3|atoms 3 and 1"):
            build_graph([molecule(), double], 2.5)

    def test_through_the_boundary(self) -> None:
        double = Structure.create([1, 1], [[0, 0, 0], CELL.sum(axis=0)], CELL, True)
        with pytest.raises(StructureError, match="one place"):
            build_graph([double], 2.5)

    def test_an_atom_and_its_own_image(self) -> None:
        with pytest.raises(StructureError):
            build_graph([Structure.create([1], [[0, 0, 0]], [9e-4, 5, 5], True)], 2.5)

    def test_close_is_not_coincident(self) -> None:
        assert build_graph([Structure.create([1, 1], [[0, 0, 0], [0, 0, 0.002]])], 2.5).edge_index.shape == (2, 2)


class TestHeads:
    def graph_head(self, head: str | None, heads: tuple[str, ...]) -> int:
        return int(build_graph([Structure.create([1], [[0, 0, 0]], head=head)], 2.5, heads=heads).head)

    def test_choice(self) -> None:
        assert self.graph_head(None, ("default",)) == 0
        assert self.graph_head("default", ("default",)) == 0
        assert [self.graph_head(h, ("a", "b", "c")) for h in "cab"] == [2, 0, 1]

    def test_none_of_several(self) -> None:
        with pytest.raises(OptionError, match=r"heads a, b; choose one with atoms.info\['head'\]"):
            self.graph_head(None, ("a", "b"))

    def test_unknown(self) -> None:
        with pytest.raises(OptionError, match="no head 'z'; allowed: a, b"):
            self.graph_head("z", ("a", "b"))


def test_unknown_elements() -> None:
    check_elements(np.array([1, 8, 1]), (1, 6, 8))
    check_elements(np.zeros(0, np.int64), (1,))
    with pytest.raises(UnknownElementError, match=r"Cu, Au \(atoms \[1, 3\]\); it was made for H, O"):
        check_elements(np.array([1, 29, 8, 79]), (1, 8))

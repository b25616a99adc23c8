"""Forces and stress of an energy that is known in closed form, and what surrounds the backward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip import AtomGraph, Potential, Structure
from mlip.graph import build_graph, turned
from mlip.nn.derivatives import evaluate

CELL = [[3.0, 0.2, 0.0], [0.1, 3.3, 0.4], [0.0, -0.3, 3.6]]


class Springs:
    """E = sum over directed edges of k/4 (r - 1)^2, half of each on either atom; strong isolated energies."""

    def __init__(self, stiffness: float = 2.0, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype
        self.stiffness = torch.tensor(stiffness, dtype=torch.float64, requires_grad=True)

    def __call__(self, graph: AtomGraph) -> Tensor:
        r = torch.linalg.vector_norm(graph.vectors(self.dtype), dim=-1)
        energy = self.stiffness.to(r.dtype) / 4 * (r - 1) ** 2
        return r.new_zeros(graph.num_atoms).index_add(0, graph.edge_index[1], energy)

    def isolated_energies(self, graph: AtomGraph) -> Tensor:
        return -1e4 * graph.numbers.to(torch.float64)


class Lopsided(Springs):
    """E = sum over edges of k/8 (r - 1)^2 (1 + x y / 2 + z / 3) (3 - r)^3: it depends on the orientation, smoothly."""

    def __call__(self, graph: AtomGraph) -> Tensor:
        v = graph.vectors(self.dtype)
        r = torch.linalg.vector_norm(v, dim=-1)
        lopsided = 1 + v[:, 0] * v[:, 1] / 2 + v[:, 2] / 3
        energy = self.stiffness.to(r.dtype) / 8 * (r - 1) ** 2 * lopsided * (3 - r) ** 3
        return r.new_zeros(graph.num_atoms).index_add(0, graph.edge_index[1], energy)


def turned_about(axis: int, angle: float) -> Tensor:
    """Return the matrix M that turns rows, r M, by an angle about an axis."""
    generator = torch.zeros(3, 3, dtype=torch.float64)
    generator[(axis + 1) % 3, (axis + 2) % 3] = angle
    generator[(axis + 2) % 3, (axis + 1) % 3] = -angle
    return torch.linalg.matrix_exp(generator)


def graph_of() -> AtomGraph:
    rng = np.random.default_rng(0)
    crystal = Structure.create([1, 8, 8], rng.uniform(0, 3, (3, 3)), CELL, True)
    molecule = Structure.create([6, 1], [[0, 0, 0], [0.9, 0.5, 0.1]])
    return build_graph([crystal, molecule], 3.0)


def by_hand(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """Return forces [N, 3] and the virial tensors sum of (dE/dvector) x vector, [B, 3, 3]."""
    v = graph.vectors()
    r = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    pull = (r - 1) * v / r  # dE/dv for k = 2
    sender, receiver = graph.edge_index
    forces = torch.zeros_like(graph.positions).index_add(0, receiver, pull).index_add(0, sender, -pull)
    virial = torch.zeros_like(graph.cell).index_add(0, graph.batch[receiver], pull[:, :, None] * v[:, None, :])
    return forces, virial


def test_forces_and_stress_by_hand() -> None:
    graph = graph_of()
    result = evaluate(Springs(), graph, stress=True)
    forces, virial = by_hand(graph)
    torch.testing.assert_close(result.forces, forces, rtol=0, atol=1e-12)
    assert result.stress is not None
    torch.testing.assert_close(result.stress[0], virial[0] / abs(np.linalg.det(CELL)), rtol=0, atol=1e-12)
    torch.testing.assert_close(result.stress, result.stress.mT, rtol=0, atol=1e-14, equal_nan=True)
    assert torch.isnan(result.stress[1]).all()  # a molecule has no volume


def test_energies_add_up_in_double_precision() -> None:
    graph = graph_of()
    result = evaluate(Springs(dtype=torch.float32), graph)
    assert result.interaction.dtype == torch.float32
    assert result.forces is not None
    assert result.forces.dtype == torch.float64
    assert result.energy.dtype == result.energies.dtype == torch.float64
    e = result.interaction.double() - 1e4 * graph.numbers
    assert torch.equal(result.energies, e)
    torch.testing.assert_close(result.energy, torch.stack([e[:3].sum(), e[3:].sum()]), rtol=1e-15, atol=0)


def test_torque_of_a_molecule_is_the_sum_of_r_cross_f() -> None:
    graph = graph_of()
    result = evaluate(Lopsided(), graph, torque=True)
    assert result.forces is not None
    assert result.torque is not None
    assert result.stress is None
    expected = torch.linalg.cross(graph.positions[3:], result.forces[3:]).sum(dim=0)
    torch.testing.assert_close(result.torque[1], expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 1e-3


def test_torque_is_the_derivative_by_a_rotation() -> None:
    graph, eps = graph_of(), 1e-3
    found = evaluate(Lopsided(), graph, forces=False, torque=True).torque
    assert found is not None
    for axis in range(3):
        energies = [evaluate(Lopsided(), turned(graph, turned_about(axis, step * eps)[None]), forces=False).energy
                    for step in (-2, -1, 1, 2)]
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * eps)
        torch.testing.assert_close(found[:, axis], -slope, rtol=0, atol=1e-7)
    assert found.abs().max() > 0.3


def test_no_torque_where_the_energy_is_invariant() -> None:
    found = evaluate(Springs(), graph_of(), torque=True, stress=True)
    assert found.torque is not None
    assert found.torque.abs().max() < 1e-12
    torch.testing.assert_close(found.stress, evaluate(Springs(), graph_of(), stress=True).stress, rtol=0, atol=0,
                               equal_nan=True)


def test_training_keeps_the_graph_of_the_torque() -> None:
    model = Lopsided()
    result = evaluate(model, graph_of(), torque=True, training=True)
    assert result.torque is not None
    (slope,) = torch.autograd.grad(result.torque.square().sum(), model.stiffness)
    expected = 2 * result.torque.square().sum() / model.stiffness  # the torque is proportional to the stiffness
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("forces", "stress"), [(False, False), (True, False), (False, True), (True, True)])
def test_only_what_was_asked_for(forces: bool, stress: bool) -> None:
    graph = graph_of()
    result = evaluate(Springs(), graph, forces=forces, stress=stress)
    full = evaluate(Springs(), graph, stress=True)
    assert (result.forces is not None, result.stress is not None) == (forces, stress)
    assert torch.equal(result.energy, full.energy)
    if forces:
        torch.testing.assert_close(result.forces, full.forces, rtol=0, atol=1e-13)
    if stress:
        torch.testing.assert_close(result.stress, full.stress, rtol=0, atol=1e-13, equal_nan=True)


def test_nothing_hangs_on_the_result_or_on_the_graph() -> None:
    graph = graph_of()
    result = evaluate(Springs(), graph, stress=True, torque=True)
    assert not any(t.requires_grad for t in (result.energy, result.energies, result.forces, result.stress,
                                             result.interaction, result.torque))
    assert not graph.positions.requires_grad
    assert not graph.cell.requires_grad
    assert torch.is_grad_enabled()


def test_training_keeps_the_graph_of_the_forces() -> None:
    springs = Springs()
    result = evaluate(springs, graph_of(), stress=True, training=True)
    assert result.forces is not None
    assert result.stress is not None
    loss = result.forces.square().sum() + result.energy.sum() + result.stress[0].sum()
    (slope,) = torch.autograd.grad(loss, springs.stiffness)

    def numeric(k: float) -> float:
        r = evaluate(Springs(k), graph_of(), stress=True)
        return float(r.forces.square().sum() + r.energy.sum() + r.stress[0].sum())

    assert float(slope) == pytest.approx((numeric(2.001) - numeric(1.999)) / 0.002, rel=1e-8)


def test_atoms_without_neighbours() -> None:
    structures = [Structure.create([1], [[0, 0, 0]], [9, 9, 9], True), Structure.create([8, 8], [[0, 0, 0], [0, 0, 8]])]
    result = evaluate(Springs(), build_graph(structures, 3.0), stress=True)
    assert not result.forces.any()
    assert not result.stress[0].any()
    assert result.energy.tolist() == [-1e4, -16e4]


def test_no_structures_at_all() -> None:
    result = evaluate(Springs(), build_graph([], 3.0), stress=True)
    assert result.energy.shape == (0,)
    assert result.forces.shape == (0, 3)
    assert result.stress.shape == (0, 3, 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_grad_mode_of_the_caller_does_not_matter(mode: type[torch.no_grad], mace: Potential) -> None:
    """In inference mode the derivatives used to come out as zero, without any error."""
    structure = Structure.create([1, 8, 8], np.random.default_rng(0).uniform(0, 3, (3, 3)), CELL, True)
    (expected,) = mace.evaluate([structure])
    with mode():
        (found,) = mace.evaluate([structure])
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        evaluate(Springs(), graph_of(), stress=True)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert np.abs(expected.forces).max() > 1e-3
    np.testing.assert_array_equal(found.forces, expected.forces)
    np.testing.assert_array_equal(found.stress, expected.stress)

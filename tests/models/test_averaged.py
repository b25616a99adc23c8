"""Averages over groups of rotations: invariance, derivatives, parts, what is shared and what is left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms

from mlip import Potential
from mlip.graph import AtomGraph, turned
from mlip.io.ase import structure_of
from mlip.models import averaged as module
from mlip.models.averaged import Averaged, AveragedDirect, averaged
from mlip.nn.derivatives import BatchPrediction, evaluate
from mlip.so3.rotation_groups import GROUPS, random_rotations, rotation_group
from mlip.verify import checks


def of(potential: Potential, group: str) -> Potential:
    return Potential(averaged(copy.deepcopy(potential.model), group), potential.info)


def graph_of(potential: Potential, *structures: Atoms) -> AtomGraph:
    return potential.graph([structure_of(atoms) for atoms in structures])


def tensors(p: BatchPrediction) -> list[torch.Tensor]:
    return [t for t in (p.interaction, p.forces, p.stress, p.torque) if t is not None]


def assert_same(a: BatchPrediction, b: BatchPrediction, tolerance: float) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance, equal_nan=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that sets the number of atoms that are evaluated at once."""
    return lambda atoms: monkeypatch.setattr(module, "MOST_ATOMS", atoms)


@pytest.mark.parametrize("group", GROUPS)
def test_invariant_under_the_group(lopsided: Potential, structures: dict[str, Atoms], group: str) -> None:
    graph = graph_of(lopsided, structures["triclinic"], structures["molecule"])
    matrices = torch.from_numpy(rotation_group(group))

    def energies(model: Averaged) -> torch.Tensor:
        found = evaluate(model, turned(graph, matrices), forces=False).interaction.view(len(matrices), -1)
        return (found - found[0]).abs().max()

    assert energies(lopsided.model) > 1e-2
    assert energies(averaged(lopsided.model, group)) < 1e-12


def test_larger_groups_are_closer_to_invariance(lopsided: Potential, structures: dict[str, Atoms]) -> None:
    graph = turned(graph_of(lopsided, structures["molecule"]), torch.from_numpy(random_rotations(16)))
    spread = [float(evaluate(model, graph, forces=False).energy.std())
              for model in (lopsided.model, *(averaged(lopsided.model, g) for g in ("T", "O", "I")))]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 0.05
    assert spread[3] < 0.05 * spread[0]


def test_the_mean_of_turned_structures(lopsided: Potential, structures: dict[str, Atoms]) -> None:
    atoms = structures["triclinic"]
    energies, forces, stress = [], [], []
    for matrix in rotation_group("T"):
        p = lopsided.predict(checks.transformed(atoms, matrix))
        energies.append(p.energies)
        forces.append(p.forces @ matrix.T)
        stress.append(matrix @ p.stress @ matrix.T)
    found = of(lopsided, "T").predict(atoms)
    np.testing.assert_allclose(found.energies, np.mean(energies, axis=0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.forces, np.mean(forces, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.stress, np.mean(stress, axis=0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("most", [4096, 20])
@pytest.mark.parametrize("name", ["triclinic", "slab", "molecule"])
def test_forces_and_stress_are_derivatives(lopsided: Potential, structures: dict[str, Atoms], name: str, most: int,
                                           small_parts: Callable[[int], None]) -> None:
    small_parts(most)
    model = of(lopsided, "O")
    assert checks.finite_difference_forces(model, structures[name]) < 1e-8
    if name != "molecule":
        assert checks.finite_difference_stress(model, structures[name]) < 1e-9


@pytest.mark.parametrize("most", [1, 7, 50])
@pytest.mark.parametrize("training", [False, True])
def test_parts_change_nothing(lopsided: Potential, any_mace: Potential, structures: dict[str, Atoms], most: int,
                              training: bool, small_parts: Callable[[int], None]) -> None:
    graph = graph_of(lopsided, structures["triclinic"], structures["molecule"])
    for potential in (lopsided, any_mace):
        model = averaged(potential.model, "T")
        whole = evaluate(model, graph, stress=True, torque=True, training=training)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MOST_ATOMS", most)
            assert_same(evaluate(model, graph, stress=True, torque=True, training=training), whole, 1e-12)


def test_second_derivatives_in_parts(lopsided: Potential, structures: dict[str, Atoms],
                                     small_parts: Callable[[int], None]) -> None:
    """A loss on energies, forces and torques reaches the weights."""
    model = averaged(copy.deepcopy(lopsided.model).requires_grad_(True), "T")
    graph = graph_of(lopsided, structures["triclinic"], structures["molecule"])

    def slopes() -> list[torch.Tensor]:
        p = evaluate(model, graph, torque=True, training=True)
        loss = p.forces.square().sum() + p.torque.square().sum() + p.interaction.square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    whole = slopes()
    small_parts(10)
    for found, expected in zip(slopes(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("group", ["O", "I"])
def test_an_equivariant_model_stays_what_it_is(invariant: Potential, structures: dict[str, Atoms], group: str) -> None:
    for name in ("triclinic", "slab", "molecule"):
        found, expected = of(invariant, group).predict(structures[name]), invariant.predict(structures[name])
        np.testing.assert_allclose(found.energies, expected.energies, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-10)
        if expected.stress is not None:
            np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=1e-10)


def test_direct_forces_and_stress_are_turned_back(structures: dict[str, Atoms], lopsided: Potential,
                                                  small_parts: Callable[[int], None]) -> None:
    from mlip.nn.derivatives import DirectPrediction

    class Direct(type(lopsided.model)):  # type: ignore[misc]
        """Forces and stress that are derivatives of the energy, but handed over as predictions."""

        def predict(self, graph: AtomGraph) -> DirectPrediction:
            p = evaluate(lopsided.model, graph, stress=True)
            return DirectPrediction(p.interaction, p.forces, p.stress.nan_to_num())

    graph = graph_of(lopsided, structures["triclinic"], structures["molecule"], structures["slab"])
    model = averaged(Direct().requires_grad_(False), "O")
    assert isinstance(model, AveragedDirect)
    expected = evaluate(averaged(lopsided.model, "O"), graph, stress=True)
    for most in (4096, 30):
        small_parts(most)
        assert_same(evaluate(model, graph, stress=True), expected, 1e-13)


def test_empty_and_lone(lopsided: Potential) -> None:
    model = of(lopsided, "Ih")
    assert model.predict([]) == []
    nothing, atom = model.predict([Atoms(), Atoms("Cu")])
    assert (nothing.energy, atom.energy) == (0.0, -45000.0)
    assert not atom.forces.any()


def test_precision_and_back_end_reach_the_model(mace: Potential) -> None:
    model = averaged(copy.deepcopy(mace.model), "O").to(dtype=torch.float32)
    assert model.dtype == torch.float32
    assert model.matrices.dtype == model.atomic_energies.dtype == torch.float64
    model.set_backend("reference")
    assert model.model.backend == model.backend == "reference"
    assert model.state_dict().keys() == {f"model.{name}" for name in mace.model.state_dict()}


def test_what_the_average_promises(lopsided: Potential, mace: Potential) -> None:
    assert averaged(mace.model, "O").rotation_invariant
    assert not averaged(lopsided.model, "I").rotation_invariant
    assert averaged(lopsided.model, "I").conservative

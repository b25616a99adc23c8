"""EquiformerV3 with direct forces and stress: equivariant, no derivatives, trainable, able to denoise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

import mlip
from mlip import Potential
from mlip.errors import OptionError
from mlip.graph import AtomGraph
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.models.equiformer_v3 import Denoising, DirectEquiformerV3
from mlip.models.equiformer_v3.heads import symmetric_matrix
from mlip.nn.derivatives import DirectFunction, evaluate
from mlip.ops import spherical_harmonics
from mlip.so3.rotation_groups import random_rotations
from mlip.training import TrainingConfig, split, train
from mlip.verify import checks
from mlip.verify.model import table, verify_model

SMALL: dict[str, Any] = {"lmax": 2, "mmax": 2, "channels": 8, "num_layers": 1, "num_heads": 2, "attention_hidden": 4,
                         "attention_alpha": 4, "attention_value": 4, "feed_forward_hidden": 8, "edge_channels": 8,
                         "num_gaussians": 6, "avg_num_neighbors": 2.0, "cutoff": 4.0}


def small(**options: Any) -> Potential:
    found = mlip.create("equiformer_v3", ["H", "C", "O", "Cu"], dtype="float64",
                        **{**SMALL, "forces": "direct", "denoising": True, **options})
    with torch.no_grad():
        for name, parameter in found.model.named_parameters():
            if name.endswith("bias"):  # they start from zero, which would hide where they enter
                torch.nn.init.normal_(parameter, std=0.3)
    return found


@pytest.fixture(scope="module")
def direct() -> Potential:
    torch.manual_seed(1)
    return small()


class TestPredictions:
    def test_they_are_no_derivatives(self, direct: Potential, structures: dict[str, Atoms]) -> None:
        assert not direct.model.conservative
        assert isinstance(direct.model, DirectFunction)
        assert not isinstance(small(forces="conservative", denoising=False).model, DirectFunction)
        found = direct.predict(structures["triclinic"])
        assert checks.finite_difference_forces(direct, structures["triclinic"]) > 1e-3
        assert checks.finite_difference_stress(direct, structures["triclinic"]) > 1e-3
        assert np.abs(found.forces.sum(axis=0)).max() > 1e-3
        np.testing.assert_array_equal(found.stress, found.stress.T)

    def test_turned_with_the_structure(self, direct: Potential, structure: Atoms) -> None:
        assert checks.rotation(direct, structure) <= 1e-13
        assert np.abs(direct.predict(structure).forces).max() > 1e-3

    def test_where_there_is_no_stress(self, direct: Potential, structures: dict[str, Atoms]) -> None:
        batch = [structures["molecule"], structures["cubic"], structures["boxed"], Atoms(), Atoms("H")]
        assert [p.stress is None for p in direct.predict(batch)] == [True, False, True, True, True]
        assert checks.batching(direct, batch) <= 1e-13

    def test_only_what_is_asked_for(self, direct: Potential, structures: dict[str, Atoms]) -> None:
        graph = direct.graph([structure_of(structures["cubic"])])
        found = evaluate(direct.model, graph, forces=False)
        assert found.forces is None
        assert found.stress is None
        assert found.energy.equal(evaluate(direct.model, graph, stress=True).energy)

    def test_lone_atoms_feel_no_force(self, direct: Potential) -> None:
        assert (direct.predict(Atoms("HO", [[0, 0, 0], [0, 4.1, 0]])).forces == 0).all()

    def test_forces_vanish_smoothly_at_the_cutoff(self, direct: Potential) -> None:
        sizes = [np.abs(direct.predict(Atoms("HO", [[0, 0, 0], [0, 4 - d, 0]])).forces).max() for d in (0.02, 0.01)]
        assert sizes[0] > 1e-9
        assert sizes[0] / sizes[1] == pytest.approx(8, rel=0.05)

    def test_components_of_the_stress(self) -> None:
        """Those of a symmetric matrix in the basis of the harmonics: v v^T comes back from the harmonics of v."""
        v = torch.randn(7, 3, dtype=torch.float64)
        y = spherical_harmonics(v, 2) * v.square().sum(dim=1, keepdim=True)
        degree_0, degree_2 = 1 / 3**0.5, (2 / 15) ** 0.5  # these of degree 1 do not matter
        scale = torch.tensor([degree_0, 7, 7, 7, *[degree_2] * 5], dtype=torch.float64)
        found, expected = symmetric_matrix(y * scale), v.unsqueeze(2) * v.unsqueeze(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)

    def test_verification(self, direct: Potential, structures: dict[str, Atoms]) -> None:
        """Derivatives are a property of a direct model, no promise; all else is."""
        found = {c.name: c for c in verify_model(direct, structures["triclinic"])}
        properties = {"forces = -dE/dr", "stress = dE/dstrain/V", "smooth with distance", "lone atom - E0"}
        assert {name for name, c in found.items() if c.limit == math.inf} == properties
        assert all(c.passed for c in found.values())
        assert found["forces = -dE/dr"].error > 1e-3
        assert "FAILED" not in table([*found.values()])
        conservative = verify_model(small(forces="conservative", denoising=False), structures["triclinic"])
        assert {c.name for c in conservative if c.limit == math.inf} == {"lone atom - E0"}
        assert all(c.passed for c in conservative)


class TestTraining:
    def test_gradients_of_a_loss_on_forces_and_stress(self, structures: dict[str, Atoms]) -> None:
        potential = small()
        graph = potential.graph([structure_of(structures["triclinic"])])
        model = potential.model.requires_grad_(True)

        def loss() -> Tensor:
            found = evaluate(model, graph, stress=True, training=True)
            return found.forces.square().sum() + found.stress.square().sum()  # type: ignore[union-attr]

        parameters = dict(model.named_parameters())
        gradients = dict(zip(parameters, torch.autograd.grad(loss(), [*parameters.values()], allow_unused=True),
                             strict=True))
        unused = {name.split(".")[0] for name, g in gradients.items() if g is None}
        assert unused == {"energy", "denoise", "force_embedding"}
        for name in ("embedding", "blocks.0.feed_forward.mix", "forces.second.real.0", "stress.expand.weight"):
            parameter, gradient = parameters[name], gradients[name]
            direction = torch.randn_like(parameter)
            with torch.no_grad():
                parameter += 1e-5 * direction
                above = loss()
                parameter -= 2e-5 * direction
                numeric = float(above - loss()) / 2e-5
                parameter += 1e-5 * direction
            assert numeric == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-9)  # type: ignore[operator]
        assert not evaluate(model, graph, stress=True).forces.requires_grad  # type: ignore[union-attr]

    @pytest.mark.parametrize("options", [{}, {"forces": "conservative", "denoising": False}], ids=["direct", "energy"])
    def test_it_learns(self, options: dict[str, Any], tmp_path: Path) -> None:
        teacher = mlip.create("equiformer_v3", ["H", "O"], seed=5, dtype="float64", **SMALL)
        generator, start, examples = np.random.default_rng(0), structure_of(molecule("H2O")), []
        for _ in range(8):
            moved = mlip.Structure.create(start.numbers, start.positions + generator.normal(0, 0.1, (3, 3)))
            (found,) = teacher.evaluate([moved])
            examples.append(Labelled(moved, found.energy, found.forces))
        config = TrainingConfig(epochs=8, batch_size=2, learning_rate=0.02, ema_decay=0.5)
        train(small(**options), *split(examples, 0.1, 0), tmp_path, config)
        rows = (tmp_path / "log.csv").read_text().splitlines()[1:]
        errors = [float(row.split(",")[3]) for row in rows]
        assert errors[-1] < 0.9 * errors[0]
        best = mlip.load(tmp_path / "best.mlip")
        assert best.model.conservative == bool(options)


class TestDenoising:
    @pytest.fixture
    def graph(self, direct: Potential, structures: dict[str, Atoms]) -> AtomGraph:
        return direct.graph([structure_of(structures[name]) for name in ("molecule", "triclinic")])

    def noise(self, graph: AtomGraph, share: float = 0.5) -> Denoising:
        generator = torch.Generator().manual_seed(0)
        moved = torch.rand(graph.num_atoms, generator=generator) < share
        return Denoising(torch.randn(graph.num_atoms, 3, dtype=torch.float64, generator=generator), moved)

    def denoised(self, direct: Potential, graph: AtomGraph, noise: Denoising) -> tuple[Tensor, Tensor]:
        assert isinstance(direct.model, DirectEquiformerV3)
        with torch.no_grad():
            found = direct.model.denoised(graph, noise)
        return found.interaction, found.forces

    def test_nothing_moved(self, direct: Potential, graph: AtomGraph) -> None:
        """Forces of atoms that were not moved do not enter, not even NaN."""
        expected = evaluate(direct.model, graph)
        for known in (self.noise(graph).forces, torch.full((graph.num_atoms, 3), torch.nan)):
            energies, forces = self.denoised(direct, graph, Denoising(known, torch.zeros(graph.num_atoms) > 0))
            assert energies.equal(expected.interaction)
            assert forces.equal(expected.forces)

    def test_structures_beside_noised_ones(self, direct: Potential, graph: AtomGraph) -> None:
        """Where no atom was moved, everything is as `predict` has it."""
        assert isinstance(direct.model, DirectEquiformerV3)
        noise, first = self.noise(graph, 1.0), graph.batch == 0
        assert not first.all()
        with torch.no_grad():
            found, plain = direct.model.denoised(graph, replace(noise, moved=first)), direct.model.predict(graph)
        torch.testing.assert_close(found.interaction[~first], plain.interaction[~first], rtol=0, atol=1e-13)
        torch.testing.assert_close(found.forces[~first], plain.forces[~first], rtol=0, atol=1e-13)
        torch.testing.assert_close(found.stress[1], plain.stress[1], rtol=0, atol=1e-13)
        assert not torch.allclose(found.stress[0], plain.stress[0])

    def test_moved_atoms_use_the_other_head(self, direct: Potential, graph: AtomGraph) -> None:
        noise = self.noise(graph)
        assert 0 < noise.moved.sum() < graph.num_atoms
        energies, vectors = self.denoised(direct, graph, noise)
        other = replace(noise, forces=torch.where(noise.moved[:, None], noise.forces, -noise.forces))
        assert vectors.equal(self.denoised(direct, graph, other)[1])
        assert not torch.allclose(energies, evaluate(direct.model, graph).interaction, rtol=0, atol=1e-6)
        twin = direct.to(backend="reference").model
        assert isinstance(twin, DirectEquiformerV3)
        scaled = small()
        scaled.model.load_state_dict(direct.model.state_dict())
        scaled.model.denoise.project.weight.data.mul_(2)  # type: ignore[union-attr]
        doubled = self.denoised(scaled, graph, noise)[1]
        torch.testing.assert_close(doubled[noise.moved], 2 * vectors[noise.moved])
        assert doubled[~noise.moved].equal(vectors[~noise.moved])

    def test_factor_of_the_forces_but_not_of_the_noise(self, direct: Potential, graph: AtomGraph) -> None:
        noise, scaled = self.noise(graph), small()
        scaled.model.load_state_dict(direct.model.state_dict())
        scaled.model.force_scale.fill_(3.0)  # type: ignore[operator, union-attr]
        ours, plain = (self.denoised(p, graph, noise)[1] for p in (scaled, direct))
        factor = torch.where(noise.moved, 1.0, 3.0)[:, None]
        torch.testing.assert_close(ours, factor * plain)

    def test_zero_forces_of_moved_atoms(self, direct: Potential, graph: AtomGraph) -> None:
        """Only the bias of the embedding is left; no direction of a zero vector."""
        noise = replace(self.noise(graph), forces=torch.zeros(graph.num_atoms, 3, dtype=torch.float64))
        found = self.denoised(direct, graph, noise)
        assert all(torch.isfinite(x).all() for x in found)
        small_forces = replace(noise, forces=torch.full_like(noise.forces, 1e-12))
        for a, b in zip(found, self.denoised(direct, graph, small_forces), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)

    def test_equivariant(self, direct: Potential, structures: dict[str, Atoms]) -> None:
        atoms = structures["triclinic"]
        turn = random_rotations(1, 0)[0]
        here, there = (direct.graph([structure_of(a)]) for a in (atoms, checks.transformed(atoms, turn)))
        noise, matrix = self.noise(here), torch.from_numpy(turn)
        assert noise.moved.any()
        energies, vectors = self.denoised(direct, here, noise)
        turned = self.denoised(direct, there, replace(noise, forces=noise.forces @ matrix))
        torch.testing.assert_close(turned[0], energies, rtol=0, atol=1e-13)
        torch.testing.assert_close(turned[1], vectors @ matrix, rtol=0, atol=1e-13)

    def test_its_weights_are_trained(self, graph: AtomGraph) -> None:
        model = small().model.requires_grad_(True)
        assert isinstance(model, DirectEquiformerV3)
        found = model.denoised(graph, self.noise(graph))
        (found.interaction.sum() + found.forces.square().sum()).backward()
        without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        order_2 = {f"{layer}.{part}.1" for layer in ("first", "second") for part in ("real", "imaginary")}
        heads = {f"{head}.{name}" for head in ("forces", "denoise") for name in ("project.bias", *order_2)}
        assert {name for name in without if not name.startswith("stress.")} == heads  # do not reach degree 1

    def test_how_forces_enter(self, direct: Potential, graph: AtomGraph) -> None:
        """As component-normalised harmonics times |F| / sqrt(3): degree 1 is the force itself."""
        noise, seen = self.noise(graph), []
        hook = direct.model.force_embedding.register_forward_pre_hook(  # type: ignore[union-attr, operator]
            lambda module, inputs: seen.append(inputs[0]))
        self.denoised(direct, graph, noise)
        hook.remove()
        signal = seen[0][noise.moved, :, 0]
        torch.testing.assert_close(signal[:, 1:4], noise.forces[noise.moved], rtol=0, atol=1e-13)
        sizes = noise.forces[noise.moved].square().sum(dim=1)
        torch.testing.assert_close(signal[:, 0], (sizes / 3).sqrt(), rtol=0, atol=1e-13)
        torch.testing.assert_close(signal[:, 4:9].square().sum(dim=1), 5 / 3 * sizes, rtol=1e-12, atol=0)

    def test_forces_that_are_not_known(self, graph: AtomGraph) -> None:
        """NaN where atoms were not moved harms no derivative either."""
        model, noise = small().model.requires_grad_(True), self.noise(graph)
        assert isinstance(model, DirectEquiformerV3)
        found = model.denoised(graph, replace(noise, forces=noise.forces.masked_fill(~noise.moved[:, None], torch.nan)))
        (found.interaction.sum() + found.forces.sum()).backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())

    def test_without(self, graph: AtomGraph) -> None:
        model = small(denoising=False).model
        assert isinstance(model, DirectEquiformerV3)
        with pytest.raises(OptionError, match="denoising=True"):
            model.denoised(graph, self.noise(graph))

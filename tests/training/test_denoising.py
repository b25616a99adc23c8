"""Training with moved atoms: what is moved, what is asked of the model, and that it learns it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mlip
from mlip import Potential, Structure
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.io.dataset import read_labelled
from mlip.models.equiformer_v3 import Denoising, DirectEquiformerV3
from mlip.training import Dataset, TrainingConfig, initial_potential
from mlip.training.config import DenoisingConfig
from mlip.training.data import Batch
from mlip.training.denoising import DenoisingObjective, Noised, noised
from mlip.training.objective import Objective, objective_for

SMALL: dict[str, Any] = {"lmax": 2, "mmax": 1, "channels": 8, "num_layers": 1, "num_heads": 2, "attention_hidden": 4,
                         "attention_alpha": 4, "attention_value": 4, "feed_forward_hidden": 8, "edge_channels": 8,
                         "num_gaussians": 6, "cutoff": 4.0, "forces": "direct", "denoising": True}
ALWAYS = DenoisingConfig(probability=1.0)
WEIGHTS = {"energy_weight": 3.0, "forces_weight": 7.0}


def frames(count: int = 6, seed: int = 0) -> list[Labelled]:
    """Return periodic and free structures of many sizes, with random labels."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        atoms = 8 + i
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[:atoms]
        cell = np.diag([6.0, 6.3, 6.6]) + rng.normal(0, 0.1, (3, 3))
        structure = Structure.create(rng.choice([1, 8], atoms), 2.0 * grid + rng.normal(0, 0.1, (atoms, 3)), cell,
                                     [i % 2 == 0, True, i % 2 == 0] if i % 3 else False)
        found.append(Labelled(structure, rng.normal(), rng.normal(size=(atoms, 3))))
    return found


def potential(dtype: str = "float64", **options: Any) -> Potential:
    return mlip.create("equiformer_v3", ["H", "O"], seed=1, dtype=dtype, **{**SMALL, **options})


def drawn(seed: int = 0, config: DenoisingConfig = ALWAYS, labelled: list[Labelled] | None = None) -> tuple[
        Batch, Noised]:
    start, examples = potential(), labelled or frames()
    batch = Dataset(examples, start).batch(range(len(examples)))
    return batch, noised(batch, config, start.model, np.random.default_rng(seed))


def counts(batch: Batch, flags: Tensor) -> list[int]:
    """Return how many atoms of each structure have a flag."""
    return [int(part.sum()) for part in flags.split(batch.sizes.int().tolist())]


class TestNoise:
    def test_displacements_are_the_target_times_std(self) -> None:
        config = DenoisingConfig(probability=0.7, std=0.04)
        batch, found = drawn(3, config)
        old, new = batch.graph, found.batch.graph
        assert 0 < found.moved.sum() < len(found.moved)
        torch.testing.assert_close(new.positions - old.positions, 0.04 * found.target, rtol=0, atol=1e-14)
        assert not found.target[~found.moved].any()
        assert found.target[found.moved].all()
        for name in ("numbers", "cell", "batch", "charge", "spin", "head"):
            assert getattr(new, name).equal(getattr(old, name)), name
        assert new.volume.equal(old.volume) or torch.allclose(new.volume, old.volume, equal_nan=True)
        assert found.batch.energy is batch.energy
        assert found.batch.forces is batch.forces

    def test_neighbours_are_found_again(self) -> None:
        """As if the structures had been given with their new positions."""
        batch, found = drawn(3, DenoisingConfig(probability=1.0, std=0.3))
        start = potential()
        sizes = batch.sizes.int().tolist()
        moved = [dataclasses.replace(e.structure, positions=r.numpy())
                 for e, r in zip(frames(), found.batch.graph.positions.split(sizes), strict=True)]
        expected = start.graph(moved)
        for name in ("edge_index", "shifts", "pair", "pair_edge", "volume"):
            torch.testing.assert_close(getattr(found.batch.graph, name), getattr(expected, name), rtol=0, atol=0,
                                       equal_nan=True)
        assert found.batch.graph.edge_index.shape != batch.graph.edge_index.shape

    def test_statistics(self) -> None:
        """Half of the structures, half of their atoms, normal displacements."""
        labelled = frames(12)
        start = potential()
        batch = Dataset(labelled, start).batch(range(12))
        generator = np.random.default_rng(0)
        all_found = [noised(batch, DenoisingConfig(), start.model, generator) for _ in range(150)]
        touched = np.array([np.array(counts(batch, f.moved)) > 0 for f in all_found])
        assert touched.mean() == pytest.approx(0.5, abs=0.04)
        assert np.ptp(touched.mean(axis=1)) > 0.3  # structure by structure, not batch by batch
        shares = [np.array(counts(batch, f.moved)) / batch.sizes.numpy() for f in all_found]
        chosen = np.concatenate(shares)[touched.ravel()]
        assert chosen.mean() == pytest.approx(0.5, abs=0.02)
        assert chosen.max() <= 0.75
        values = torch.cat([f.target[f.moved] for f in all_found])
        assert values.mean().item() == pytest.approx(0, abs=0.02)
        assert values.square().mean().item() == pytest.approx(1, abs=0.03)

    def test_too_many_atoms_hit(self) -> None:
        """Then nothing is moved: never a lone atom, two atoms at most one at a time."""
        one, two = (Labelled(Structure.create([8] * n, [[1.5 * i, 0, 0] for i in range(n)]), 0.0, np.ones((n, 3)))
                    for n in (1, 2))
        seen = {tuple(counts(batch, found.moved)) for seed in range(40) for batch, found in [drawn(
            seed, labelled=[one, two])]}
        assert seen == {(0, 0), (0, 1)}

    def test_large_and_unknown_forces(self) -> None:
        """A length counts, not a component: that of [2, 2, 0] is 2.8."""
        labelled = [dataclasses.replace(e, forces=0.3 * np.clip(e.forces, -3, 3)) for e in frames()]
        labelled[2].forces[1] = [2.0, 2.0, 0.0]
        labelled[4].forces[3, 1] = math.nan
        limited = DenoisingConfig(probability=1.0, max_force=2.5)

        def ever_moved(config: DenoisingConfig) -> list[bool]:
            found = [drawn(seed, config, labelled) for seed in range(10)]
            return np.any([np.array(counts(batch, f.moved)) > 0 for batch, f in found], axis=0).tolist()

        assert ever_moved(limited) == [True, True, False, True, False, True]
        assert ever_moved(ALWAYS) == [True, True, True, True, False, True]

    def test_options(self) -> None:
        for options, text in (({"probability": 1.5}, "probability must be a number above 0 and at most 1"),
                              ({"fraction": 0.8}, "fraction must be a number above 0 and at most 0.75"),
                              ({"std": 0}, "std must be"), ({"std": "0.1"}, "std must be"),
                              ({"weight": math.inf}, "weight must be a number above 0; inf"),
                              ({"max_force": -1.0}, "max_force must be a number above 0; -1.0")):
            with pytest.raises(OptionError, match=f"denoising: {text}"):
                DenoisingConfig(**options)


class TestObjective:
    def objective(self, model: Any, config: DenoisingConfig) -> DenoisingObjective:
        found = objective_for(model, TrainingConfig(**WEIGHTS, denoising=config))
        assert isinstance(found, DenoisingObjective)
        return found

    def test_the_loss(self) -> None:
        """Energies of all, forces of the atoms that were not moved, displacements of those that were."""
        start = potential()
        assert isinstance(start.model, DirectEquiformerV3)
        batch, found = drawn(3, config := DenoisingConfig(probability=0.7, weight=5.0))
        loss = self.objective(start.model, config)(start.model, batch, np.random.default_rng(3))
        with torch.no_grad():
            said = start.model.denoised(found.batch.graph, Denoising(batch.forces, found.moved))
        energy = torch.zeros(6).double().index_add(0, batch.graph.batch, said.interaction)  # isolated atoms: 0 eV
        still, atoms = ~found.moved, len(found.moved)
        expected = (3 * ((energy - batch.energy) / batch.sizes).square().mean()
                    + 7 * (said.forces - batch.forces)[still].square().sum() / (3 * atoms)
                    + 5 * (said.forces - found.target)[found.moved].norm(dim=1).sum() / atoms)
        assert 0 < still.sum() < atoms
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)

    def test_without_noise_it_is_the_plain_loss(self) -> None:
        """Of structures that are left as they are, and with the same gradients."""
        start = potential()
        model = start.model.requires_grad_(True)
        batch = Dataset(frames(), start).batch(range(6))
        quiet = DenoisingConfig(probability=1.0, max_force=1e-9)
        losses = [objective(model, batch, np.random.default_rng(0))
                  for objective in (self.objective(model, quiet), Objective(TrainingConfig(**WEIGHTS)))]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
        names = [n for n, _ in model.named_parameters() if not n.startswith(("stress.", "denoise.", "force_embedding"))]
        gradients = [torch.autograd.grad(loss, [model.get_parameter(n) for n in names]) for loss in losses]
        for name, one, other in zip(names, *gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=name)

    def test_gradients_reach_what_denoises(self) -> None:
        start = potential()
        model = start.model.requires_grad_(True)
        batch = Dataset(frames(), start).batch(range(6))
        self.objective(model, ALWAYS)(model, batch, np.random.default_rng(0)).backward()
        for name, weight in model.named_parameters():
            if not name.startswith("stress.") and name not in ("forces.project.bias", "denoise.project.bias"):
                assert weight.grad is not None, name  # no stress is in the loss; a bias has no direction
                assert weight.grad.any(), name

    def test_the_generator_is_all_its_chance(self) -> None:
        start = potential("float32")
        objective = self.objective(start.model, DenoisingConfig())
        batch = Dataset(frames(), start).batch(range(6))
        losses = []
        for seed in (5, 5, 6):
            generator = np.random.default_rng(seed)
            losses.append([objective(start.model, batch, generator).item() for _ in range(2)])
            torch.rand(1)
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]
        assert losses[0][0] != losses[0][1]

    def test_models_that_cannot(self) -> None:
        config = TrainingConfig(denoising=ALWAYS)
        for options in ({"denoising": False}, {"denoising": False, "forces": "conservative"}):
            with pytest.raises(OptionError, match="forces='direct' and denoising=True"):
                objective_for(potential(**options).model, config)
        with pytest.raises(OptionError, match="for this mace"):
            objective_for(mlip.create("mace", ["H"], channels=4).model, config)
        with pytest.raises(OptionError, match="equiformer_v3 know them: leave both at 0"):
            objective_for(potential().model, dataclasses.replace(config, torque_weight=1.0))


def test_displacements_are_learned(shared_dir: Path) -> None:
    """Of acetylacetone, noised anew at every step; the forces tell where atoms came from."""
    frames_of = read_labelled(shared_dir / "data" / "acac" / "train_300K.xyz.gz")
    examples = [e for e in frames_of if len(e.structure) > 1][:4]
    start = initial_potential("equiformer_v3", examples, seed=2, **{**SMALL, "channels": 16, "num_gaussians": 24})
    model: Any = start.model.requires_grad_(True)
    config = DenoisingConfig(probability=1.0, std=0.2)
    objective = objective_for(model, TrainingConfig(**WEIGHTS, denoising=config))
    batch = Dataset(examples, start).batch(range(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def missed() -> float:
        """Return how wrong displacements are that it was not trained with, in units of their standard deviation."""
        generator, total = np.random.default_rng(99), 0.0
        for _ in range(4):
            noise = noised(batch, config, model, generator)
            with torch.no_grad():
                found = model.denoised(noise.batch.graph, Denoising(batch.forces, noise.moved))
            total += (found.forces - noise.target)[noise.moved].norm(dim=1).mean().item() / 4
        return total

    before, generator = missed(), np.random.default_rng(0)
    for _ in range(60):
        optimizer.zero_grad()
        objective(model, batch, generator).backward()
        optimizer.step()
    assert missed() < 0.8 * before

"""Training in two orientations: the loss against copies turned by hand, and runs of models that learn rotations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip import Potential, Structure, load
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.nn.derivatives import evaluate
from mlip.so3.rotation_groups import random_rotations
from mlip.training import Dataset, Stage, TrainingConfig, errors, initial_potential, split, train
from mlip.training.objective import Objective, Transformation, TwoViews, objective_for

Array = NDArray[np.float64]
TINY: dict[str, Any] = {"channels": 16, "num_layers": 2, "num_heads": 2, "num_gaussians": 6, "cutoff": 4.0}
PAPER: dict[str, Any] = {**TINY, "mode": "paper", "cutoff": 8.0}
WEIGHTS = {"energy_weight": 3.0, "forces_weight": 7.0}


def learner(examples: list[Labelled], dtype: str = "float64", **options: Any) -> Potential:
    isolated = {"H": -13.6, "O": -2013.8}
    return initial_potential("transip", examples, isolated, seed=1, dtype=dtype, **{**TINY, **options})


def rotations_of(seed: int, count: int) -> Array:
    """Return the matrices that the objective draws, [2, count, 3, 3]; positions are rows, r -> r M."""
    return random_rotations(2 * count, np.random.default_rng(seed)).reshape(2, count, 3, 3)


def by_hand(example: Labelled, matrix: Array) -> Labelled:
    s = example.structure
    new = Structure.create(s.numbers, s.positions @ matrix, s.cell @ matrix if s.pbc.any() else None, s.pbc,
                           charge=s.charge, spin=s.spin)
    return Labelled(new, example.energy, example.forces @ matrix)


def crystals(count: int = 4) -> list[Labelled]:
    rng = np.random.default_rng(3)
    cell = np.array([[2.9, 0.1, 0], [0.4, 3.1, 0.2], [0, -0.3, 3.0]])
    positions = np.array([[0, 0, 0], [1.3, 1.2, 1.4]])
    structures = [Structure.create([1, 8], positions + rng.normal(0, 0.1, (2, 3)), cell, True) for _ in range(count)]
    return [Labelled(s, -2040 + rng.normal(), rng.normal(size=(2, 3))) for s in structures]


class TestLoss:
    @pytest.mark.parametrize("options", [{}, PAPER, {**PAPER, "forces": "direct"}], ids=["md", "paper", "direct"])
    def test_errors_of_two_copies_turned_by_hand(self, examples: list[Labelled], options: dict[str, Any]) -> None:
        """With fresh neighbour lists. Nothing but these errors is left without the weights of symmetry."""
        chosen = [*examples[:3], *(crystals(2) if not options else [])]
        potential = learner(examples, **options)
        batch = Dataset(chosen, potential).batch(range(len(chosen)))
        objective = objective_for(potential.model, TrainingConfig(**WEIGHTS))
        found = objective(potential.model, batch, np.random.default_rng(5)).item()
        losses = []
        for matrices in rotations_of(5, len(chosen)):
            copies = [by_hand(e, m) for e, m in zip(chosen, matrices, strict=True)]
            predictions = potential.evaluate([c.structure for c in copies])
            energy = [((p.energy - c.energy) / len(c.structure)) ** 2
                      for p, c in zip(predictions, copies, strict=True)]
            forces = np.concatenate([(p.forces - c.forces).ravel() ** 2
                                     for p, c in zip(predictions, copies, strict=True)])
            losses.append(3 * np.mean(energy) + 7 * np.mean(forces))
        assert found == pytest.approx(np.mean(losses), rel=1e-10)
        plain = Objective(TrainingConfig(**WEIGHTS))(potential.model, batch, np.random.default_rng(5)).item()
        assert abs(plain / found - 1) > 1e-3
        assert abs(losses[0] / losses[1] - 1) > 1e-3

    def test_config_weights(self, examples: list[Labelled], start: Potential) -> None:
        """A mean over structures, and over the components of all forces; in two views as well."""
        chosen = [dataclasses.replace(e, config_type=name) for e, name in zip(examples, "aab", strict=False)]
        weights = {"b": 5.0, "c": 7.0}
        for potential in (start, learner(examples)):
            def loss(part: list[Labelled], options: dict[str, Any], potential: Potential = potential) -> float:
                objective = objective_for(potential.model, TrainingConfig(**WEIGHTS, **options))
                batch = Dataset(part, potential).batch(range(len(part)))
                if isinstance(objective, TwoViews):
                    objective._rotations = lambda *_: torch.eye(3).double().repeat(2, len(part), 1, 1)
                return objective(potential.model, batch, np.random.default_rng(0)).item()

            plain, first, last = (loss(part, {}) for part in (chosen, chosen[:2], chosen[2:]))
            assert plain == pytest.approx((2 * first + last) / 3, rel=1e-12)
            assert loss(chosen, {"config_weights": weights}) == pytest.approx((2 * first + 5 * last) / 3, rel=1e-12)

    def test_stress_has_the_weight_of_its_structure(self) -> None:
        """Also where the stress of others is not known."""
        named = [dataclasses.replace(e, config_type=str(i)) for i, e in enumerate(crystals(3))]
        known = [dataclasses.replace(e, stress=np.eye(3)) if i else e for i, e in enumerate(named)]
        potential = learner(known)

        def loss(weights: dict[str, float]) -> float:
            stage = Stage(energy_weight=0, forces_weight=0, stress_weight=1.0, config_weights=weights)
            objective = Objective(TrainingConfig(stages=(stage,)))
            return objective(potential.model, Dataset(known, potential).batch(range(3)),
                             np.random.default_rng(0)).item()

        first, second = loss({"2": 0.0}), loss({"1": 0.0})
        assert loss({"0": 9.0}) == pytest.approx(first + second, rel=1e-12)
        assert loss({"1": 3.0, "2": 4.0}) == pytest.approx(3 * first + 4 * second, rel=1e-12)

    def test_the_rotation_between_two_views(self, examples: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
        """Embeddings that turn as vectors do, here a sum over atoms of positions, are told by a T that turns them."""
        potential = learner(examples)
        batch = Dataset(examples, potential).batch([0, 3, 4])
        objective = objective_for(potential.model, TrainingConfig(**WEIGHTS, latent_weight=1000.0))
        assert isinstance(objective, TwoViews)
        charge = torch.linspace(-1, 1, 9, dtype=torch.float64)

        def pooled(graph: Any, features: Tensor) -> Tensor:
            charges = charge.repeat(graph.num_atoms // 9)[:, None]
            return torch.zeros(graph.num_structures, 3, dtype=torch.float64).index_add(
                0, graph.batch, charges * graph.positions)

        monkeypatch.setattr(type(potential.model), "pooled", lambda _, *a: pooled(*a))

        def loss(turn: Any) -> float:
            objective.transformation.forward = turn
            return float(objective(potential.model, batch, np.random.default_rng(5)).item())

        plain = objective_for(potential.model, TrainingConfig(**WEIGHTS))
        expected = plain(potential.model, batch, np.random.default_rng(5)).item()
        assert loss(lambda z, between: (z[:, None] @ between)[:, 0]) == pytest.approx(expected, rel=1e-12)
        assert loss(lambda z, between: (z[:, None] @ between.mT)[:, 0]) > 1.1 * expected
        assert loss(lambda z, between: z) > 1.1 * expected

    def test_the_latent_term(self, examples: list[Labelled]) -> None:
        """Before training T is the identity, so that it is the mean square of what the embeddings are apart."""
        potential, count = learner(examples), 3
        batch = Dataset(examples, potential).batch([0, 1, 2])
        parts = [objective_for(potential.model, TrainingConfig(**WEIGHTS, latent_weight=weight)).double()
                 for weight in (0.0, 2.0)]
        plain, with_latent = (o(potential.model, batch, np.random.default_rng(5)).item() for o in parts)
        views = [potential.graph([by_hand(e, m).structure for e, m in zip(examples[:count], matrices, strict=True)])
                 for matrices in rotations_of(5, count)]
        z = [potential.model.features(graph).view(count, 3, -1).mean(dim=1) for graph in views]
        assert with_latent - plain == pytest.approx(2 * (z[0] - z[1]).square().mean().item(), rel=1e-8)
        one = torch.from_numpy(random_rotations(2 * count).reshape(2, count, 3, 3))
        assert parts[1].apart(z[0], z[0], one).item() == 0.0
        assert parts[1].apart(z[0], z[1], one).item() > 1e-4

    def test_transformation(self) -> None:
        torch.manual_seed(0)
        transformation = Transformation(8).double()
        z = torch.randn(5, 8, dtype=torch.float64)
        turns = torch.from_numpy(random_rotations(5))
        assert torch.equal(transformation(z, turns), z)
        with torch.no_grad():
            transformation.output.normal_()
        turned = transformation(z, turns)
        assert (turned - z).abs().max() > 0.1
        assert (turned - transformation(z, turns.flip(0))).abs().max() > 0.1
        assert (turned - z - transformation(2 * z, turns) + 2 * z).abs().max() < 1e-3  # the length is normalised away
        torch.testing.assert_close(transformation(z[2:3], turns[2:3]), turned[2:3])

    def test_apart_in_both_directions(self) -> None:
        """The mean of what is told of the second view from the first, and of the first from the second."""
        objective = TwoViews(4, TrainingConfig()).double()
        with torch.no_grad():
            objective.transformation.output.normal_()
        a, b = torch.randn(2, 3, 4, dtype=torch.float64)
        first, second = torch.from_numpy(random_rotations(6)).view(2, 3, 3, 3)
        forth = objective.transformation(a, torch.linalg.solve(first, second)) - b  # r_b = r_a (a^-1 b)
        back = objective.transformation(b, torch.linalg.solve(second, first)) - a
        expected = (forth.square().mean() + back.square().mean()) / 2
        found = objective.apart(a, b, torch.stack([first, second]))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(objective.apart(b, a, torch.stack([second, first])), found)

    def test_torque(self, examples: list[Labelled]) -> None:
        """The mean, over structures and views, of the length of the sum of r x F."""
        potential = learner(examples)
        batch = Dataset(examples, potential).batch([4, 2])
        plain, heavy = (objective_for(potential.model, TrainingConfig(**WEIGHTS, torque_weight=w))(
            potential.model, batch, np.random.default_rng(5)).item() for w in (0.0, 11.0))
        lengths = []
        for matrices in rotations_of(5, 2):
            for example, matrix in zip((examples[4], examples[2]), matrices, strict=True):
                structure = by_hand(example, matrix).structure
                forces = potential.evaluate([structure])[0].forces
                lengths.append(np.linalg.norm(np.cross(structure.positions, forces).sum(axis=0)))
        assert heavy - plain == pytest.approx(11 * np.mean(lengths), rel=1e-8)

    def test_torque_of_lone_atoms(self, examples: list[Labelled]) -> None:
        """It is exactly 0, where a length has no derivative; that must not be NaN."""
        potential = learner(examples)
        atom = Labelled(Structure.create([8], [[1, 2, 3]]), -2014.0, np.zeros((1, 3)))
        config = TrainingConfig(**WEIGHTS, torque_weight=1.0, latent_weight=1.0)
        for chosen in ([atom, examples[0]], [atom, atom]):
            model = potential.to(dtype="float32").model.requires_grad_(True)
            objective = objective_for(model, config)
            loss = objective(model, Dataset(chosen, potential.to(dtype="float32")).batch([0, 1]),
                             np.random.default_rng(0))
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in gradients)
            assert any(g is not None and g.any() for g in gradients)
            model.requires_grad_(False)

    def test_gradients_reach_everything(self, examples: list[Labelled]) -> None:
        potential = learner(examples)
        trainer_model = potential.model.requires_grad_(True)
        objective = objective_for(trainer_model, TrainingConfig(latent_weight=1.0, torque_weight=1.0)).double()
        with torch.no_grad():
            objective.transformation.output.normal_(std=0.1)
            trainer_model.state.output.normal_()
        batch = Dataset(examples, potential).batch([0, 1, 2])
        objective(trainer_model, batch, np.random.default_rng(0)).backward()
        for name, weight in (*trainer_model.named_parameters(), *objective.named_parameters()):
            assert weight.grad.abs().max() > 1e-9, name
        trainer_model.requires_grad_(False)

    @pytest.mark.parametrize("options", [{}, {**PAPER, "forces": "direct"}], ids=["md", "direct"])
    def test_the_latent_term_teaches_the_model(self, examples: list[Labelled], options: dict[str, Any]) -> None:
        """Its gradient is that of what the embeddings of two copies are apart, up to the last block and norm."""
        potential, count = learner(examples, **options), 3
        model: Any = potential.model.requires_grad_(True)
        batch = Dataset(examples, potential).batch([0, 1, 2])
        name = "blocks.0.attention.frequencies"
        weight = model.get_parameter(name)

        def slope(latent: float) -> Tensor:
            objective = objective_for(model, TrainingConfig(**WEIGHTS, latent_weight=latent)).double()
            return torch.autograd.grad(objective(model, batch, np.random.default_rng(5)), weight)[0]

        views = [potential.graph([by_hand(e, m).structure for e, m in zip(examples[:count], matrices, strict=True)])
                 for matrices in rotations_of(5, count)]
        z = [model.features(graph).view(count, 3, -1).mean(dim=1) for graph in views]
        (expected,) = torch.autograd.grad(100 * (z[0] - z[1]).square().mean(), weight)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(slope(100.0) - slope(0.0), expected, rtol=1e-6, atol=1e-8)
        model.requires_grad_(False)

    def test_models_that_know_rotations(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        assert type(objective_for(start.model, TrainingConfig())) is Objective
        for weight in ("latent_weight", "torque_weight"):
            config = TrainingConfig(epochs=1, **{weight: 0.1})
            with pytest.raises(OptionError, match="family mace know them: leave both at 0"):
                train(start, *split(examples, 0.1, 0), tmp_path / "run", config)
        assert not (tmp_path / "run").exists()

    def test_direct_forces_have_no_torque(self, examples: list[Labelled]) -> None:
        model = learner(examples, **PAPER, forces="direct").model
        objective_for(model, TrainingConfig(latent_weight=1.0))
        with pytest.raises(OptionError, match="torque_weight needs forces that are derivatives"):
            objective_for(model, TrainingConfig(torque_weight=1.0))


def total(potential: Potential, examples: list[Labelled], config: TrainingConfig) -> float:
    found = errors(Dataset(examples, potential))
    return config.energy_weight * found.energy_rmse**2 + config.forces_weight * found.forces_rmse**2


SHORT = TrainingConfig(epochs=3, batch_size=5, learning_rate=0.01, ema_decay=0.5, latent_weight=1.0, torque_weight=0.1)


class TestRuns:
    @pytest.mark.parametrize(("options", "share"), [({}, 0.5), ({**PAPER, "forces": "direct"}, 0.85)],
                             ids=["md", "direct"])
    def test_it_learns(self, examples: list[Labelled], options: dict[str, Any], share: float, tmp_path: Path) -> None:
        config = dataclasses.replace(SHORT, epochs=16, learning_rate=0.03, torque_weight=0.0 if options else 0.1)
        potential = learner(examples, **options)
        trained = load(train(potential, *split(examples, 0.1, 0), tmp_path / "run", config))
        assert total(trained, examples, config) < share * total(potential, examples, config)
        assert trained.model.conservative is (not options)
        card = trained.info.validation
        for name in ("energy_rot_std_mev_per_atom", "forces_rot_std_mev_per_angstrom"):
            assert 0 < card[name] < np.inf, name
        assert not any(p.requires_grad for p in potential.model.parameters())

    def test_the_card_tells_the_symmetry_of_what_is_saved(self, examples: list[Labelled], tmp_path: Path) -> None:
        trained = load(train(learner(examples), *split(examples, 0.1, 0), tmp_path, SHORT))
        _, held_out = split(examples, 0.1, 0)
        spread = []
        for example in held_out:
            energies = [trained.evaluate([by_hand(example, m).structure])[0].energy for m in random_rotations(16)]
            spread.append(1000 * np.std(energies) / 3)
        expected = np.sqrt(np.mean(np.square(spread)))
        assert trained.info.validation["energy_rot_std_mev_per_atom"] == pytest.approx(expected, rel=1e-3, abs=1e-4)

    @pytest.mark.parametrize("options", [{}, {**PAPER, "forces": "direct"}], ids=["md", "direct"])
    def test_interrupted_and_continued(self, examples: list[Labelled], options: dict[str, Any], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
        """After one epoch, within the next; the transformation of the embeddings goes on, too."""
        config = dataclasses.replace(SHORT, torque_weight=0.0 if options else 0.1)
        potential = learner(examples, **options)
        torch.manual_seed(1)
        whole = train(potential, *split(examples, 0.1, 0), tmp_path / "whole", config)
        torch.manual_seed(2)  # a run draws from generators of its own
        forward, left = TwoViews.forward, iter(range(6))  # 4 steps are an epoch

        def counted(*a: Any) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return forward(*a)

        with monkeypatch.context() as patch:
            patch.setattr(TwoViews, "forward", counted)
            with pytest.raises(KeyboardInterrupt):
                train(potential, *split(examples, 0.1, 0), tmp_path / "parts", config)
        stopped = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
        assert (stopped["epoch"], stopped["global_step"]) == (0, 4)
        assert stopped["state_dict"]["objective.transformation.output"].any()
        parts = train(potential, *split(examples, 0.1, 0), tmp_path / "parts", config)
        assert parts.read_bytes() == whole.read_bytes()
        states = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
                  for name in ("parts", "whole")]
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            assert torch.equal(value, states[1][name]), name
        other = dataclasses.replace(config, seed=3)
        assert train(potential, *split(examples, 0.1, 0), tmp_path / "other", other).read_bytes() != whole.read_bytes()

    def test_orientations_do_not_depend_on_the_weights_of_symmetry(self, examples: list[Labelled],
                                                                   monkeypatch: pytest.MonkeyPatch,
                                                                   tmp_path: Path) -> None:
        """So that runs with and without can be compared."""
        drawn: dict[float, list[Tensor]] = {0.0: [], 5.0: []}
        keep = TwoViews._rotations
        for weight, seen in drawn.items():
            def draw(*a: Any, seen: list[Tensor] = seen) -> Tensor:
                seen.append(keep(*a))
                return seen[-1]

            monkeypatch.setattr(TwoViews, "_rotations", staticmethod(draw))
            config = dataclasses.replace(SHORT, epochs=1, latent_weight=weight, torque_weight=0.0)
            train(learner(examples), *split(examples, 0.1, 0), tmp_path / f"{weight}", config)
        assert len(drawn[0.0]) == 4
        for one, other in zip(drawn[0.0], drawn[5.0], strict=True):
            assert torch.equal(one, other)

    def test_single_precision_and_crystals(self, tmp_path: Path) -> None:
        data = [*crystals(6), Labelled(Structure.create([8], [[0, 0, 0]]), -2014.0, np.zeros((1, 3)))]
        potential = initial_potential("transip", data, None, **{**TINY, "cutoff": 3.5})
        trained = load(train(potential, *split(data, 0.1, 0), tmp_path, dataclasses.replace(SHORT, batch_size=2)))
        assert trained.dtype == torch.float32
        assert all(np.isfinite(v) for v in trained.info.validation.values())


class TestInitial:
    def test_charges_and_spins_are_those_of_the_data(self, examples: list[Labelled], tmp_path: Path) -> None:
        states = [(0, 1), (1, 2), (-1, 2), (0, 3)]
        data = [dataclasses.replace(e, structure=dataclasses.replace(e.structure, charge=q, spin=s))
                for e, (q, s) in zip(examples, 5 * states, strict=True)]
        potential = learner(data)
        assert (potential.model.config.charges, potential.model.config.spins) == ((-1, 0, 1), (1, 2, 3))
        assert learner(examples).model.config.charges == (0,)
        assert learner(data, charges=(-2, -1, 0, 1)).model.config.charges == (-2, -1, 0, 1)
        trained = load(train(potential, *split(data, 0.1, 0), tmp_path, dataclasses.replace(SHORT, epochs=1)))
        energies = [trained.evaluate([dataclasses.replace(data[0].structure, charge=q, spin=1)])[0].energy
                    for q in (-1, 0, 1)]
        assert len(set(energies)) == 3

    def test_constants(self, examples: list[Labelled]) -> None:
        model: Any = learner(examples).model
        forces = np.concatenate([e.forces for e in examples])
        assert model.atomic_energies.tolist() == [[-13.6, -2013.8]]
        assert model.scale.item() == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12)
        expected = np.mean([(e.energy + 2 * 13.6 + 2013.8) / 3 for e in examples])
        assert model.shift.item() == pytest.approx(expected, rel=1e-9)
        direct: Any = learner(examples, **PAPER, forces="direct").model
        assert direct.force_scale.item() == model.scale.item()
        batch = Dataset(examples, learner(examples)).batch([0])
        assert evaluate(direct, batch.graph).forces.abs().max() > 1e-3

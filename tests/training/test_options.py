"""Options, the split, the initial constants and the error measures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from mlip import Potential, Structure
from mlip.errors import OptionError, StructureError, UnknownElementError
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, Stage, TrainingConfig, errors, initial_potential
from mlip.training.data import split
from mlip.training.plan import Plan

NAN, INF = float("nan"), float("inf")
WRONG: dict[str, tuple[Any, ...]] = {
    "epochs": (0, -1, 2.0, "3", None, True), "batch_size": (0, 1.5, None), "patience": (0, None),
    "seed": (-1, 0.5, "x"), "learning_rate": (-0.1, NAN, INF, "fast", True), "energy_weight": (-1, NAN, INF),
    "forces_weight": (-1, None), "stress_weight": (-1, "much"), "latent_weight": (-1, NAN),
    "torque_weight": (-0.5, None), "repulsion_weight": (-1, None, NAN), "max_gradient": (-1.0, NAN, "10"),
    "ema_decay": (1.0, -0.1, NAN, 2, None), "optimizer": ("sgd", "", 1), "schedule": ("linear", None),
    "warmup_steps": (-1, 0.5),
    "energy_loss": ("rmse", 1), "forces_loss": ("L2", None), "stress_loss": ("",),
    "huber_delta": (0.0, -1.0, NAN), "stages": ([], ({"epochs": 3},), (TrainingConfig(),), None),
    "denoising": (True, {"probability": 0.5}), "weight_decay": (-1e-3, NAN), "validate_every": (-1, 1.5, None),
    "config_weights": ({"liquid": -1}, {"liquid": "much"}, {"liquid": NAN}, {1: 2.0}, [("liquid", 2)], None),
}


def test_every_option_is_covered() -> None:
    assert set(WRONG) == {f.name for f in dataclasses.fields(TrainingConfig)}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_wrong_options(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        TrainingConfig(**{name: value})


def test_edges_of_what_is_allowed() -> None:
    TrainingConfig(epochs=1, batch_size=1, patience=1, seed=0, learning_rate=0, energy_weight=0, ema_decay=0)
    with pytest.raises(OptionError, match="nothing would be learned"):
        TrainingConfig(energy_weight=0, forces_weight=0)


class TestTables:
    """What a recipe says of the training."""

    def test_stages_inherit(self) -> None:
        config = TrainingConfig.from_dict({"forces_weight": 7.0, "epochs": 3, "batch_size": 2, "stages": [
            {"learning_rate": 0.1}, {"epochs": 1, "forces_weight": 8.0, "schedule": "plateau"}]})
        assert config.batch_size == 2
        assert config.parts == (Stage(epochs=3, forces_weight=7.0, learning_rate=0.1),
                                Stage(epochs=1, forces_weight=8.0, schedule="plateau"))
        assert TrainingConfig.from_dict({"epochs": 5, "energy_loss": "mae"}).parts == (
            Stage(epochs=5, energy_loss="mae"),)

    @pytest.mark.parametrize(("table", "message"), [
        ({"epoch": 3}, r"\[training\] has no option epoch; known: batch_size"),
        ({"stages": [{"batch_size": 3}]}, r"\[training.stages\] has no option batch_size"),
        ({"stages": {"epochs": 3}}, "stages must be tables"), ({"stages": 3}, "stages must be tables"),
        ({"stages": [{"epochs": 0}]}, "epochs must be a whole number from 1")])
    def test_errors(self, table: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            TrainingConfig.from_dict(table)


class TestPlan:
    def test_every_structure_once_an_epoch_whatever_the_number_of_processes(self) -> None:
        plan = Plan(TrainingConfig(epochs=3, batch_size=4, seed=5), 10, "mace")
        assert (plan.epoch_steps, plan.steps, plan.round, plan.rounds) == (3, 9, 3, 3)
        epochs = [[plan.indices(step) for step in range(3 * e, 3 * e + 3)] for e in range(3)]
        for epoch in epochs:
            assert sorted(i for batch in epoch for i in batch) == list(range(10))
            assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert epochs[0] != epochs[1]
        assert plan.indices(0) == epochs[0][0]  # by the number of the step alone
        for step in range(9):
            shares = [plan.indices(step, rank, 2) for rank in range(2)]
            assert sorted(i for share in shares for i in share) == sorted(plan.indices(step))
        assert all(len(plan.indices(2, rank, 4)) == 1 for rank in range(4))  # two structures for four processes

    @pytest.mark.parametrize(("family", "optimizer", "rate"), [
        ("transip", None, 0.01), ("transip", "muon", 0.01), ("transip", "adamw", 0.003),
        ("equiformer_v3", None, 0.008), ("mace", None, 0.01), ("mace", "muon", 0.03)])
    def test_rates_and_stages(self, family: str, optimizer: str | None, rate: float) -> None:
        stages = (Stage(epochs=2, learning_rate=0.1, warmup_steps=2), Stage(epochs=1, schedule="constant"))
        plan = Plan(TrainingConfig(stages=stages, batch_size=5, optimizer=optimizer), 10, family)
        assert [plan.stage_index(step) for step in range(7)] == [0, 0, 0, 0, 1, 1, 1]
        assert [plan.rate(step) for step in range(6)] == pytest.approx([0.05, 0.1, 0.1, 0.05, rate, rate])

    def test_a_stage_is_longer_than_its_warm_up(self) -> None:
        def plan(steps: int) -> Plan:
            stages = Stage(epochs=3), Stage(epochs=2, learning_rate=0.1, warmup_steps=steps)
            return Plan(TrainingConfig(stages=stages, batch_size=5), 10, "mace")

        assert plan(3).rate(6 + 3) == pytest.approx(0.1)  # the last of ten steps
        with pytest.raises(OptionError, match=r"warmup_steps = 4 leave nothing of a stage of 4 step\(s\), 2 in each"):
            plan(4)

    def test_a_plateau_lowers_the_rate_and_is_resumed(self) -> None:
        config = TrainingConfig(epochs=100, schedule="plateau", learning_rate=1.0)
        plan = Plan(config, 5, "mace")
        for step, score in enumerate([3.0, 2.0, *[2.5] * 5]):
            plan.validated(step, score)
            assert plan.rate(step + 1) == 1.0
        plan.validated(7, 2.5)
        assert plan.rate(8) == pytest.approx(0.8)
        again = Plan(config, 5, "mace")
        again.load_state_dict(plan.state_dict())
        assert again.rate(8) == pytest.approx(0.8)

    def test_rounds(self) -> None:
        plan = Plan(TrainingConfig(epochs=3, validate_every=4), 50, "mace")
        assert (plan.steps, plan.round, plan.rounds) == (30, 4, 8)


class TestSplit:
    def test_everything_once(self, examples: list[Labelled]) -> None:
        training, validation = split(examples, 0.25, 3)
        assert (len(training), len(validation)) == (15, 5)
        assert {id(e) for e in training + validation} == {id(e) for e in examples}

    def test_the_seed_decides(self, examples: list[Labelled]) -> None:
        def chosen(seed: int) -> list[int]:
            return [id(e) for e in split(examples, 0.25, seed)[1]]

        assert chosen(0) == chosen(0)
        assert chosen(0) != chosen(1)

    def test_small_numbers(self, examples: list[Labelled]) -> None:
        assert [len(part) for part in split(examples[:2], 0.01, 0)] == [1, 1]
        with pytest.raises(OptionError, match="too few"):
            split(examples[:2], 0.9, 0)


class TestDataset:
    def test_batches(self, examples: list[Labelled], start: Potential) -> None:
        data = Dataset(examples, start)
        batches = list(data.batches(6))
        assert [len(b.energy) for b in batches] == [6, 6, 6, 2]
        assert torch.cat([b.energy for b in batches]).tolist() == [e.energy for e in examples]
        assert batches[0].graph.num_structures == 6
        assert batches[0].sizes.tolist() == [3.0] * 6
        assert batches[0].stress.isnan().all()
        assert data.batch([3, 1]).energy.tolist() == [examples[3].energy, examples[1].energy]

    def test_neighbours(self, start: Potential) -> None:
        far = Labelled(Structure.create([1, 1, 8], [[0, 0, 0], [0, 0, 1], [0, 0, 50]]), 0.0, np.zeros((3, 3)))
        assert Dataset([far], start).mean_neighbors() == pytest.approx(2 / 3)
        assert Dataset([], start).mean_neighbors() == 0.0

    def test_elements_the_model_does_not_know(self, start: Potential) -> None:
        gold = Labelled(Structure.create([79], [[0, 0, 0]]), 0.0, np.zeros((1, 3)))
        with pytest.raises(UnknownElementError, match="Au"):
            Dataset([gold], start).batch([0])

    def test_coincident_atoms(self, start: Potential) -> None:
        double = Labelled(Structure.create([1, 1], [[0, 0, 0], [0, 0, 0]]), 0.0, np.zeros((2, 3)))
        with pytest.raises(StructureError, match="one place"):
            Dataset([double], start).batch([0])


def test_errors_by_hand(examples: list[Labelled], start: Potential) -> None:
    found = errors(Dataset(examples, start), batch_atoms=20)
    predictions = start.evaluate([e.structure for e in examples])
    energy = 1e3 * np.array([(p.energy - e.energy) / 3 for p, e in zip(predictions, examples, strict=True)])
    forces = 1e3 * np.concatenate([(p.forces - e.forces).ravel() for p, e in zip(predictions, examples, strict=True)])
    assert found.energy_rmse == pytest.approx(np.sqrt(np.mean(energy**2)), rel=1e-9)
    assert found.energy_mae == pytest.approx(np.mean(np.abs(energy)), rel=1e-9)
    assert found.forces_rmse == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-9)
    assert found.forces_mae == pytest.approx(np.mean(np.abs(forces)), rel=1e-9)
    assert set(found.to_dict()) == {"energy_rmse_mev_per_atom", "energy_mae_mev_per_atom",
                                    "forces_rmse_mev_per_angstrom", "forces_mae_mev_per_angstrom"}
    assert "meV/atom" in str(found)


class TestInitial:
    def test_constants(self, examples: list[Labelled], start: Potential) -> None:
        model: Any = start.model
        assert model.atomic_energies.tolist() == [[-13.6, -2013.8]]
        forces = np.concatenate([e.forces for e in examples])
        assert float(model.scale) == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12)
        expected = np.mean([(e.energy + 2 * 13.6 + 2013.8) / 3 for e in examples])
        assert float(model.shift) == pytest.approx(expected, rel=1e-9)
        assert start.model.config.avg_num_neighbors == 2.0
        assert np.abs([p.energy - e.energy for p, e in
                       zip(start.evaluate([e.structure for e in examples]), examples, strict=True)]).max() < 50

    def test_energies_from_a_fit(self) -> None:
        def labelled(numbers: list[int]) -> Labelled:
            energy = sum({1: -13.0, 6: -1030.0, 8: -2040.0}[z] for z in numbers)
            positions = 0.5 * np.arange(3 * len(numbers)).reshape(-1, 3)
            return Labelled(Structure.create(numbers, positions), energy, np.zeros((len(numbers), 3)))

        potential = initial_potential("mace", [labelled(n) for n in ([1, 8], [1, 1, 6], [6, 8, 8], [1, 1, 8])],
                                      channels=2, edge_lmax=1, radial_mlp=(4,))
        np.testing.assert_allclose(potential.model.atomic_energies, [[-13.0, -1030.0, -2040.0]], rtol=1e-9)
        assert float(potential.model.shift) == pytest.approx(0.0, abs=1e-6)
        assert float(potential.model.scale) == pytest.approx(1e-3)  # no forces at all must not give zero

    def test_a_given_number_of_neighbours_is_kept(self, examples: list[Labelled]) -> None:
        potential = initial_potential("mace", examples, channels=2, edge_lmax=1, avg_num_neighbors=7.5)
        assert potential.model.config.avg_num_neighbors == 7.5

    def test_missing_isolated_atom(self, examples: list[Labelled]) -> None:
        with pytest.raises(OptionError, match="isolated atom O is missing"):
            initial_potential("mace", examples, {"H": -13.6}, channels=2)

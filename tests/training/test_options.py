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
from mlip.training import Dataset, TrainingConfig, errors, initial_potential
from mlip.training.data import split

NAN, INF = float("nan"), float("inf")
WRONG: dict[str, tuple[Any, ...]] = {
    "epochs": (0, -1, 2.0, "3", None, True), "batch_size": (0, 1.5, None), "patience": (0, None),
    "seed": (-1, 0.5, "x"), "learning_rate": (-0.1, NAN, INF, "fast", None, True), "energy_weight": (-1, NAN, INF),
    "forces_weight": (-1, None), "latent_weight": (-1, NAN), "torque_weight": (-0.5, None),
    "max_gradient": (-1.0, NAN, "10"), "ema_decay": (1.0, -0.1, NAN, 2, None),
    "validation_fraction": (0.0, 1.0, -0.5, NAN, "0.1"),
}


def test_every_option_is_covered() -> None:
    assert set(WRONG) == {f.name for f in dataclasses.fields(TrainingConfig)}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_wrong_options(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        TrainingConfig(**{name: value})


def test_edges_of_what_is_allowed() -> None:
    TrainingConfig(epochs=1, batch_size=1, patience=1, seed=0, learning_rate=0, energy_weight=0, forces_weight=0,
                   ema_decay=0, validation_fraction=0.99)


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
        shuffled = torch.cat([b.energy for b in data.batches(6, np.random.default_rng(0))])
        assert sorted(shuffled.tolist()) == sorted(e.energy for e in examples)
        assert shuffled.tolist() != [e.energy for e in examples]

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
    found = errors(Dataset(examples, start), batch_size=7)
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

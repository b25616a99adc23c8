"""Walls where there are no data: the shortest distances in data, and what training makes of what lies below."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mlip import Potential, Structure, create, load
from mlip.checkpoints.contacts import SIZES
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.training import TrainingConfig, evaluate_on, train
from mlip.training.repulsion import Repulsion
from mlip.verify.checks import binding


def table(found: Repulsion) -> dict[tuple[int, int], float]:
    return {(a, b): r for (a, b), r in zip(found.numbers.tolist(), found.far, strict=True)}


class TestDistances:
    def test_of_molecules_and_crystals(self) -> None:
        """The shortest of all structures, also across the faces of a cell; without any, radii tell."""
        water, copper = molecule("H2O"), bulk("Cu", "fcc", a=3.6)
        short = water.copy()
        short.set_distance(0, 1, 0.9, fix=0)
        found = table(Repulsion.of([structure_of(a) for a in (water, short, copper)], 3.0))
        assert list(found) == [(1, 1), (1, 8), (1, 29), (8, 8), (8, 29), (29, 29)]
        assert found[1, 8] == pytest.approx(0.9)
        assert found[1, 1] == pytest.approx(min(a.get_distance(1, 2) for a in (water, short)))
        assert found[29, 29] == pytest.approx(3.6 / 2**0.5)
        for a, b in ((8, 8), (1, 29), (8, 29)):
            assert found[a, b] == pytest.approx(2 * (SIZES[a] + SIZES[b]))

    def test_pairs_that_leave_nothing(self, attractive: Potential) -> None:
        """Data reach as far down as dynamics may go; beyond the cutoff nothing is seen."""
        near = Structure.create([8, 8], [[0, 0, 0], [0, 0, 0.6]])
        nothing = Repulsion.of([near], 3.0)
        assert not len(nothing.numbers)
        assert nothing.gain(attractive.model, np.random.default_rng(0)) == 0
        far = Structure.create([8, 8], [[0, 0, 0], [0, 0, 3.2]])
        assert table(Repulsion.of([far], 3.0)) == {(8, 8): pytest.approx(4 * SIZES[8])}
        assert not len(Repulsion.of([], 3.0).numbers)


@pytest.fixture
def attractive() -> Potential:
    """A random model that binds two hydrogen atoms by 2.8 eV."""
    return create("mace", ["H", "O"], seed=0, channels=8, correlation=2, radial_mlp=(16,), edge_lmax=1, hidden_lmax=0,
                  cutoff=3.0, dtype="float64")


class TestGain:
    def test_what_is_gained(self, attractive: Potential) -> None:
        """The mean over pairs of what the energy falls by; the generator alone decides which."""
        repulsion = Repulsion.of([structure_of(molecule("H2O"))], 3.0)
        found = repulsion.gain(attractive.model, np.random.default_rng(3))
        assert found == repulsion.gain(attractive.model, np.random.default_rng(3))
        assert found != repulsion.gain(attractive.model, np.random.default_rng(4))
        falls = []
        for numbers, near, far in zip(repulsion.numbers, repulsion.near, repulsion.far, strict=True):
            energies = np.array([attractive.predict(Atoms(numbers, [[0, 0, 0], [0, 0, r]])).energy
                                 for r in np.append(np.linspace(near, far, 40), far)])
            falls.append(np.maximum(energies[-1] - energies[:-1], 0).mean())
        many = torch.stack([repulsion.gain(attractive.model, np.random.default_rng(i)) for i in range(150)])
        error = float(many.std()) / 150**0.5
        assert np.mean(falls) > 0.2
        assert float(many.mean()) == pytest.approx(np.mean(falls), abs=4 * error + 0.05 * np.mean(falls))

    def test_walls_cost_nothing(self) -> None:
        """Atoms that only repel each other."""
        potential = create("mace", ["H", "O"], channels=4, correlation=1, radial_mlp=(8,), pair_repulsion=True)
        with torch.no_grad():
            for weight in potential.model.head_parameters():
                weight.zero_()
        gain = Repulsion.of([structure_of(molecule("H2O"))], 5.0).gain(potential.model, np.random.default_rng(0))
        assert gain == 0


def test_training_fills_a_hole(attractive: Potential, tmp_path: Path) -> None:
    """The labels are those of the model itself: without the weight it stays as it is, with it the hole is gone."""
    rng = np.random.default_rng(0)
    shape = molecule("H2O").positions
    structures = [Structure.create([8, 1, 1], shape + rng.normal(0, 0.05, (3, 3))) for _ in range(20)]
    examples = [Labelled(s, p.energy, p.forces)
                for s, p in zip(structures, attractive.evaluate(structures), strict=True)]
    config = TrainingConfig(epochs=30, batch_size=5, learning_rate=0.01, energy_weight=10.0, forces_weight=1.0)
    left = [binding(load(train(attractive, examples[:15], examples[15:], tmp_path / str(weight),
                               dataclasses.replace(config, repulsion_weight=weight))), [("H", "H")])
            for weight in (0.0, 1.0)]
    assert left[0] == binding(attractive, [("H", "H")]) > 2.0
    assert left[1] < 0.3 * left[0]
    found = evaluate_on(load(tmp_path / "1.0/best.mlip"), examples[15:]).total.forces.rmse
    assert found is not None
    assert found < 0.2 * np.sqrt(np.mean([np.square(e.forces) for e in examples[15:]]))  # what the data say is known

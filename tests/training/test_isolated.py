"""Isolated atoms among the data are energies of reference, not examples."""

from __future__ import annotations

import numpy as np
import pytest

from mlip import Structure
from mlip.errors import OptionError, StructureError
from mlip.graph.labelled import Labelled
from mlip.training import TrainingConfig, initial_potential, separate_isolated, train

SMALL = {"channels": 2, "edge_lmax": 1, "hidden_lmax": 0, "correlation": 1, "radial_mlp": (4,), "cutoff": 3.0}


def atom(z: int, energy: float) -> Labelled:
    return Labelled(Structure.create([z], [[0, 0, 0]]), energy, np.zeros((1, 3)))


def water(shift: float = 0.0, spread: float = 1.0) -> Labelled:
    positions = spread * np.array([[0, 0, 0], [0.96 + shift, 0, 0], [-0.24, 0.93, 0]])
    return Labelled(Structure.create([8, 1, 1], positions), -14.0 + shift, np.zeros((3, 3)))


def test_they_are_taken_out() -> None:
    crystal = Labelled(Structure.create([8], [[0, 0, 0]], 2 * np.eye(3), True), -3.0, np.zeros((1, 3)))
    energies, others = separate_isolated([atom(1, -1.0), water(), atom(8, -2.0), crystal, atom(8, -2.0)])
    assert energies == {"H": -1.0, "O": -2.0}
    assert [len(e.structure) for e in others] == [3, 1]
    model = initial_potential("mace", others, energies, **SMALL).model
    assert model.atomic_energies.tolist() == [[-1.0, -2.0]]


def test_two_energies_of_one_element() -> None:
    with pytest.raises(OptionError, match="two isolated atoms O"):
        separate_isolated([atom(8, -2.0), atom(8, -2.5)])


def test_a_cutoff_that_reaches_nothing() -> None:
    with pytest.raises(OptionError, match="no atom of the data has a neighbour"):
        initial_potential("mace", [water(spread=50.0)], None, **SMALL)


def test_a_bad_structure_is_named_before_training(tmp_path) -> None:  # type: ignore[no-untyped-def]
    good = [water(0.01 * i) for i in range(4)]
    overlap = Labelled(Structure.create([8, 1], [[0, 0, 0], [0, 0, 0]]), -1.0, np.zeros((2, 3)))
    start = initial_potential("mace", good, None, **SMALL)
    with pytest.raises(StructureError, match="structure 2: atoms"):
        train(start, [*good[:2], overlap], good[2:], tmp_path / "run", TrainingConfig(epochs=1))
    assert not (tmp_path / "run").exists()

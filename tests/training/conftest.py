"""Small labelled structures and a small model to train."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mlip import Potential, Structure, create
from mlip.graph.labelled import Labelled
from mlip.training import TrainingConfig, initial_potential

TINY: dict[str, Any] = {"channels": 4, "edge_lmax": 1, "hidden_lmax": 1, "correlation": 2, "radial_mlp": (8,),
                        "num_bessel": 4, "cutoff": 3.5}
FAST = TrainingConfig(epochs=4, batch_size=5, learning_rate=0.02, ema_decay=0.5)


def teacher_labels(count: int = 20, seed: int = 0) -> list[Labelled]:
    """Return water-like molecules with the energies and forces of a random model."""
    teacher = create("mace", ["H", "O"], seed=11, dtype="float64", **{**TINY, "edge_lmax": 2, "channels": 2})
    rng = np.random.default_rng(seed)
    shape = np.array([[0, 0, 0], [0.95, 0, 0], [-0.25, 0.93, 0]])
    structures = [Structure.create([8, 1, 1], shape + rng.normal(0, 0.12, (3, 3))) for _ in range(count)]
    predictions = teacher.evaluate(structures)
    return [Labelled(s, p.energy - 2041.0, p.forces) for s, p in zip(structures, predictions, strict=True)]


@pytest.fixture(scope="session")
def examples() -> list[Labelled]:
    """Twenty labelled molecules."""
    return teacher_labels()


@pytest.fixture
def start(examples: list[Labelled]) -> Potential:
    """An untrained potential fitted to the constants of the examples."""
    return initial_potential("mace", examples, {"H": -13.6, "O": -2013.8}, seed=1, dtype="float64", **TINY)


@pytest.fixture
def fast() -> TrainingConfig:
    """Options of a short run."""
    return dataclasses.replace(FAST)

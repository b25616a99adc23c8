"""A random potential that binds copper, and structures to move."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import mlip
from mlip.simulation import with_velocities


@pytest.fixture(scope="session")
def binding() -> mlip.Potential:
    """A small random MACE, float64, whose energy of fcc copper has a minimum near a = 3.3 A."""
    return mlip.create("mace", ["H", "C", "O", "Cu"], seed=0, channels=4, hidden_lmax=1, edge_lmax=2, correlation=2,
                       radial_mlp=(16,), pair_repulsion=True, cutoff=4.0, dtype="float64", avg_num_neighbors=4.0)


@pytest.fixture(scope="session")
def acac() -> mlip.Potential:
    """The bundled model in float64."""
    return mlip.load("mace-acac", dtype="float64")


@pytest.fixture
def copper() -> Atoms:
    """Four atoms of fcc copper, each moved a little."""
    atoms = bulk("Cu", "fcc", a=3.35, cubic=True)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.05, (len(atoms), 3))
    return atoms


@pytest.fixture
def moving_copper(copper: Atoms) -> Atoms:
    """The same with the velocities of 600 K; about half of it remains."""
    return with_velocities(copper, 600.0, seed=2)

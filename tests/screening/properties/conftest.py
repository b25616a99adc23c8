"""A bundled model of six elements in float64, and crystals relaxed with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ase import Atoms
from ase.build import bulk

import mlip
from mlip.simulation import relax


@pytest.fixture(scope="session")
def elements() -> mlip.Potential:
    return mlip.load("gaunt-mace-elements", dtype="float64")


@pytest.fixture(scope="session")
def relaxed(elements: mlip.Potential) -> Callable[..., Atoms]:
    """A function that relaxes the crystal that `ase.build.bulk` makes of its arguments, once."""
    known: dict[str, Atoms] = {}

    def make(*arguments: object, **options: object) -> Atoms:
        key = str((arguments, options))
        if key not in known:
            done = relax(bulk(*arguments, **options), elements, cell=True, fmax=1e-5)
            assert done.converged
            known[key] = done.atoms
        return known[key].copy()

    return make

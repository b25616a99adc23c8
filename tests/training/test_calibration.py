"""Spread of a committee against its errors, where both are known."""

from __future__ import annotations

import numpy as np
import pytest

from mlip import Structure, create
from mlip.checkpoints import Committee
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.training import spread_against_error


@pytest.fixture(scope="module")
def committee() -> Committee:
    """Three random models."""
    return Committee([create("mace", ["H", "O"], seed=seed, channels=2, edge_lmax=1, hidden_lmax=0, correlation=1,
                             radial_mlp=(8,), cutoff=3.5, dtype="float64") for seed in range(3)])


def labelled(committee: Committee, lengths: np.ndarray | None = None) -> list[Labelled]:
    """Return molecules with forces off the mean by 2.5 times the spread, or by the lengths given, in any direction."""
    rng = np.random.default_rng(0)
    shape = np.array([[0, 0, 0], [0.95, 0, 0], [-0.25, 0.93, 0]])
    examples = []
    for _ in range(20):
        structure = Structure.create([8, 1, 1], shape + rng.normal(0, 0.15, (3, 3)))
        p = committee.evaluate([structure])[0]
        directions = rng.normal(size=(3, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        length = 2.5 * p.forces_std if lengths is None else rng.permutation(lengths)
        examples.append(Labelled(structure, 0.0, p.forces + length[:, None] * directions))
    return examples


def test_known_errors(committee: Committee) -> None:
    found = spread_against_error(committee, labelled(committee))
    assert found.atoms == 60
    assert found.scale == pytest.approx(2.5, rel=1e-9)
    assert found.rms_error == pytest.approx(2.5 * found.rms_spread)
    assert found.correlation > 0.999
    assert "scale 2.50, rank correlation 1.00" in str(found)


def test_errors_that_have_nothing_to_do_with_the_spread(committee: Committee) -> None:
    found = spread_against_error(committee, labelled(committee, np.array([0.3, 0.4, 1.2])))
    assert found.rms_error == pytest.approx(np.sqrt((0.3**2 + 0.4**2 + 1.2**2) / 3))
    assert abs(found.correlation) < 0.35


def test_nothing_to_compare(committee: Committee) -> None:
    lone = Labelled(Structure.create([1], np.zeros((1, 3))), -13.6, np.zeros((1, 3)))
    for examples in ([], [lone], [lone, lone]):
        with pytest.raises(OptionError, match="nothing to compare"):
            spread_against_error(committee, examples)

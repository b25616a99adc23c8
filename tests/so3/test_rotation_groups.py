"""Finite groups of rotations: that they are groups, and which harmonics their averages take out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlip.errors import OptionError
from mlip.ops import spherical_harmonics
from mlip.so3.rotation_groups import GROUPS, random_rotations, rotation_group

ORDERS = {"T": 12, "O": 24, "Oh": 48, "I": 60, "Ih": 120}
# degrees up to 12 that the average keeps
KEPT = {"T": {0, 3, 4, 6, 7, 8, 9, 10, 11, 12}, "O": {0, 4, 6, 8, 9, 10, 12}, "Oh": {0, 4, 6, 8, 10, 12},
        "I": {0, 6, 10, 12}, "Ih": {0, 6, 10, 12}}


@pytest.mark.parametrize("name", GROUPS)
class TestGroups:
    def test_members(self, name: str) -> None:
        group = rotation_group(name)
        assert group.shape == (ORDERS[name], 3, 3)
        assert group.dtype == np.float64
        np.testing.assert_array_equal(group[0], np.eye(3))
        np.testing.assert_allclose(group @ group.mT, np.broadcast_to(np.eye(3), group.shape), rtol=0, atol=1e-14)
        determinants = np.linalg.det(group).round(12)
        assert (determinants == 1).sum() == ORDERS[name.removesuffix("h")]
        assert (determinants == -1).sum() == ORDERS[name] - ORDERS[name.removesuffix("h")]

    def test_closed_and_distinct(self, name: str) -> None:
        group = rotation_group(name)
        products = (group[:, None] @ group).reshape(-1, 1, 9)
        distance = np.abs(products - group.reshape(1, -1, 9)).max(axis=2)
        assert distance.min(axis=1).max() < 1e-13
        np.testing.assert_array_equal((distance < 1e-6).sum(axis=1), 1)

    def test_harmonics_that_survive_the_average(self, name: str) -> None:
        points = np.random.default_rng(0).normal(size=(7, 3))
        turned = torch.from_numpy(np.einsum("nd,gde->gne", points, rotation_group(name)).reshape(-1, 3))
        mean = spherical_harmonics(turned, 12, "reference").view(ORDERS[name], 7, -1).mean(dim=0)
        largest = [float(mean[:, l * l:(l + 1) ** 2].abs().max()) for l in range(13)]
        assert {l for l in range(13) if largest[l] > 1e-3} == KEPT[name]
        assert max(v for l, v in enumerate(largest) if l not in KEPT[name]) < 1e-12

    def test_a_changed_copy_changes_nothing(self, name: str) -> None:
        rotation_group(name)[:] = 0
        np.testing.assert_array_equal(rotation_group(name)[0], np.eye(3))


@pytest.mark.parametrize("wrong", ["O_h", "o", "", "C1", "h", None, 24], ids=repr)
def test_unknown_groups(wrong: Any) -> None:
    with pytest.raises(OptionError, match=r"is unknown; allowed: T, O, Oh, I, Ih"):
        rotation_group(wrong)


class TestRandom:
    def test_rotations(self) -> None:
        q = random_rotations(200, 3)
        np.testing.assert_allclose(q @ q.mT, np.broadcast_to(np.eye(3), q.shape), rtol=0, atol=1e-14)
        np.testing.assert_allclose(np.linalg.det(q), 1.0, rtol=0, atol=1e-14)

    def test_uniform(self) -> None:
        """Means of D^1 and of its products are those of the Haar measure: 0 and 1/3 on the diagonal."""
        q = random_rotations(20_000).reshape(-1, 9)
        assert np.abs(q.mean(axis=0)).max() < 0.02
        np.testing.assert_allclose(q.T @ q / len(q), np.eye(9) / 3, rtol=0, atol=0.02)

    def test_seeds(self) -> None:
        assert (random_rotations(3, 1) == random_rotations(3, 1)).all()
        assert (random_rotations(3, 1) != random_rotations(3, 2)).all()
        generator = np.random.default_rng(1)
        assert (random_rotations(1, generator) != random_rotations(1, generator)).all()
        assert random_rotations(0).shape == (0, 3, 3)

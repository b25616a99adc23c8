"""Quadratures on the sphere: exactness, positive weights, numbers of points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mlip.errors import OptionError
from mlip.ops import spherical_harmonics
from mlip.so3.quadrature import octant_quadrature, sphere_quadrature

FEWEST = {0: 1, 1: 2, 2: 6, 3: 6, 5: 14, 7: 26, 9: 38, 11: 50, 15: 86, 17: 110, 19: 146, 21: 170, 23: 194, 24: 325}


@pytest.mark.parametrize("degree", [*range(26), 40])
def test_exact_up_to_its_degree(degree: int) -> None:
    points, weights = sphere_quadrature(degree)
    harmonics = spherical_harmonics(torch.from_numpy(points), degree, backend="reference").numpy()
    integrals = weights @ harmonics
    assert math.isclose(integrals[0], 4 * math.pi, rel_tol=1e-14)
    np.testing.assert_allclose(integrals[1:], 0, rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", [*range(26), 40])
def test_points_and_weights(degree: int) -> None:
    points, weights = sphere_quadrature(degree)
    assert (points.dtype, weights.dtype) == (np.float64, np.float64)
    assert points.shape == (len(weights), 3)
    assert len(np.unique(points.round(8), axis=0)) == len(points)
    assert (weights > 0).all()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=0, atol=1e-15)
    assert len(points) <= (degree // 2 + 1) * (degree + 1)


def test_integrals_of_monomials() -> None:
    """The integral of x^2a y^2b z^2c is 4 pi (2a-1)!! (2b-1)!! (2c-1)!! / (2(a+b+c)+1)!!."""
    def odd(n: int) -> int:
        return math.prod(range(1, n + 1, 2))

    for degree in (4, 9, 12, 23, 26):
        points, weights = sphere_quadrature(degree)
        for a, b, c in np.ndindex(5, 5, 5):
            if 2 * (a + b + c) <= degree:
                exact = 4 * math.pi * odd(2 * a - 1) * odd(2 * b - 1) * odd(2 * c - 1) / odd(2 * (a + b + c) + 1)
                found = weights @ np.prod(points ** [2 * a, 2 * b, 2 * c], axis=1)
                assert math.isclose(found, exact, rel_tol=1e-13)


@pytest.mark.parametrize(("degree", "count"), FEWEST.items())
def test_number_of_points(degree: int, count: int) -> None:
    assert len(sphere_quadrature(degree)[1]) == count


def test_results_are_the_caller_s_own() -> None:
    points, weights = sphere_quadrature(5)
    points *= 2
    weights *= 2
    assert math.isclose(sphere_quadrature(5)[1].sum(), 4 * math.pi)
    assert math.isclose(np.abs(sphere_quadrature(5)[0]).max(), 1)


def test_negative_degree() -> None:
    with pytest.raises(OptionError, match="0 or more"):
        sphere_quadrature(-1)


def images(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all reflections of representatives that are different points."""
    found = [(sign * p, w) for p, w in zip(points, weights, strict=True)
             for sign in np.array(list(itertools.product((1, -1), repeat=3))) if (sign[p == 0] == 1).all()]
    return np.array([p for p, _ in found]), np.array([w for _, w in found])


@pytest.mark.parametrize(("degree", "order"), [(d, o) for d in (0, 1, 3, 6, 9, 12, 18, 26) for o in range(d + 2)])
def test_few_orders_need_few_azimuths(degree: int, order: int) -> None:
    points, weights = images(*octant_quadrature(degree, order))
    harmonics = spherical_harmonics(torch.from_numpy(points), degree, backend="reference").numpy()
    exact = np.zeros((degree + 1) ** 2)
    exact[0] = 4 * math.pi
    orders = np.array([m for l in range(degree + 1) for m in range(-l, l + 1)])
    integrals = weights @ harmonics
    np.testing.assert_allclose(integrals[abs(orders) <= order], exact[abs(orders) <= order], rtol=0, atol=1e-13)
    assert (weights > 0).all()
    assert len(np.unique(points.round(9), axis=0)) == len(points)
    if order < degree:
        assert len(points) <= (degree // 2 + 1) * (order + 2)


def test_order_is_about_the_axis_y() -> None:
    """What has a larger order is not integrated, and all orders is the default."""
    points, weights = images(*octant_quadrature(12, 3))
    harmonics = spherical_harmonics(torch.from_numpy(points), 4, backend="reference").numpy()
    assert abs(weights @ harmonics[:, 24]) > 1  # l = 4, m = 4, on four azimuths
    for order in (12, 13, 100):
        np.testing.assert_array_equal(octant_quadrature(12, order)[0], octant_quadrature(12)[0])

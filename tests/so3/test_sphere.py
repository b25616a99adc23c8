"""Harmonics, their reflections, the octant, Gaunt coefficients and the polynomials of powers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mlip.ops import gaunt_power, spherical_harmonics
from mlip.so3.degrees import Paths, block, convolution_paths, size
from mlip.so3.gaunt import gaunt, gaunt_entries, zonal_entries
from mlip.so3.harmonics import NORMALIZATIONS, harmonics, norms, reflection_parity
from mlip.so3.quadrature import octant_quadrature, sphere_quadrature
from mlip.so3.symmetric_power import gaunt_basis


def directions(count: int) -> np.ndarray:
    v = np.random.default_rng(0).normal(size=(count, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


class TestHarmonics:
    def test_values(self) -> None:
        v = directions(20)
        expected = spherical_harmonics(torch.from_numpy(v), 9, "reference").numpy() / math.sqrt(4 * math.pi)
        np.testing.assert_allclose(harmonics(v, 9), expected, rtol=0, atol=1e-12)

    def test_orthonormal(self) -> None:
        points, weights = sphere_quadrature(20)
        values = harmonics(points, 10)
        np.testing.assert_allclose((values * weights[:, None]).T @ values, np.eye(size(10)), rtol=0, atol=1e-13)

    def test_norms(self) -> None:
        values = harmonics(directions(3), 4)
        for name, square in zip(NORMALIZATIONS, (lambda l: (2 * l + 1) / (4 * math.pi), lambda l: 2 * l + 1,
                                                 lambda l: 1), strict=True):
            for l in range(5):
                np.testing.assert_allclose(((values * norms(4, name))[:, block(l)] ** 2).sum(1), square(l))

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_reflections(self, axis: int) -> None:
        v = directions(10)
        mirrored = v * np.where(np.arange(3) == axis, -1, 1)
        signs = 1 - 2 * (reflection_parity(8) >> axis & 1)
        np.testing.assert_allclose(harmonics(mirrored, 8), signs * harmonics(v, 8), rtol=0, atol=1e-13)


class TestOctant:
    @pytest.mark.parametrize("degree", [0, 1, 2, 3, 6, 9, 12, 15, 18, 23, 24, 25, 32, 41])
    def test_images_integrate_exactly(self, degree: int) -> None:
        points, weights = octant_quadrature(degree)
        assert (points >= 0).all()
        assert (weights > 0).all()
        images, each = [], []
        for signs in itertools.product((1, -1), repeat=3):
            fresh = ~((points == 0) & (np.array(signs) < 0)).any(axis=1)  # a coordinate 0 has no image
            images.append((points * signs)[fresh])
            each.append(weights[fresh])
        total = np.concatenate(each) @ harmonics(np.concatenate(images), degree)
        np.testing.assert_allclose(total, np.eye(size(degree))[0] * math.sqrt(4 * math.pi), rtol=0, atol=2e-13)
        assert np.concatenate(each).sum() == pytest.approx(4 * math.pi, rel=1e-13)
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-13)


class TestGaunt:
    def test_counts(self) -> None:
        assert [len(gaunt_entries(l, l, l)[1]) for l in range(1, 7)] == [10, 83, 353, 1158, 2907, 6460]

    @pytest.mark.parametrize("degrees", [(0, 0, 0), (1, 2, 3), (4, 4, 2), (3, 5, 8)])
    def test_integrals(self, degrees: tuple[int, int, int]) -> None:
        points, weights = sphere_quadrature(sum(degrees))
        a, b, c = (harmonics(points, l)[:, block(l)] for l in degrees)
        np.testing.assert_allclose(gaunt(*degrees), np.einsum("p,pi,pj,pk->ijk", weights, a, b, c), rtol=0, atol=1e-14)

    def test_entries(self) -> None:
        index, values = gaunt_entries(2, 3, 4)
        assert (np.lexsort(index.T[::-1]) == np.arange(len(index))).all()
        full = np.zeros((size(4), size(2), size(3)))
        full[tuple(index.T)] = values
        for l1, l2 in np.ndindex(3, 4):
            for l3 in range(abs(l1 - l2), min(l1 + l2, 4) + 1):
                found = full[block(l3), block(l1), block(l2)].transpose(1, 2, 0)
                np.testing.assert_allclose(found, gaunt(l1, l2, l3), rtol=0, atol=1e-12)
        assert np.count_nonzero(full) == len(values)

    def test_zonal_entries(self) -> None:
        index, values = zonal_entries(2, 3, 4)
        assert set(index[:, 2].tolist()) == {0, 2, 6, 12}
        everything = dict(zip(map(tuple, gaunt_entries(2, 3, 4)[0].tolist()), gaunt_entries(2, 3, 4)[1], strict=True))
        assert all(everything[tuple(i)] == v for i, v in zip(index.tolist(), values, strict=True))
        component = lambda k: (math.isqrt(k), k - math.isqrt(k) * (math.isqrt(k) + 1))  # noqa: E731
        assert all(component(k)[1] == component(i)[1] for k, i, _ in index.tolist())  # orders do not mix

    def test_triangles(self) -> None:
        with pytest.raises(ValueError, match="triangle"):
            gaunt(1, 1, 3)


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize(("lmax", "nu", "l"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (2, 4, 0), (1, 3, 3)])
def test_polynomials_of_powers(lmax: int, nu: int, l: int, name: str) -> None:
    x = np.random.default_rng(0).normal(size=size(lmax))
    basis = gaunt_basis(lmax, nu, l, name)
    assert basis.coefficients.shape[1] == 1
    found = np.einsum("p,pm->m", x[basis.monomials].prod(axis=1), basis.coefficients[:, 0])
    expected = gaunt_power(torch.from_numpy(x), nu, l, name, "sparse", "reference")[block(l)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-12 * max(1.0, float(expected.abs().max())))


class TestPaths:
    def test_each_for_itself(self) -> None:
        paths = Paths.all(1, 3, 3)
        assert list(paths.triples) == convolution_paths(1, 3, 3)
        assert (paths.weights, paths.slots) == (10, {0: 2, 1: 3, 2: 3, 3: 2})
        assert paths.places() == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 2), (5, 0), (6, 1), (7, 2), (8, 0), (9, 1)]

    def test_shared(self) -> None:
        paths = Paths.all(1, 3, 3, gaunt=True)
        assert (paths.weights, paths.slots) == (4, {0: 1, 1: 1, 2: 1, 3: 1})
        assert paths.places() == [(l2, 0) for _, l2, _ in paths.triples]
        assert paths != Paths.all(1, 3, 3)

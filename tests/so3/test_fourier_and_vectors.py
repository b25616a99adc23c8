"""Fourier tables of harmonics, Poisson brackets and vector harmonics, against quadratures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.ops import spherical_harmonics
from mlip.so3.degrees import block, size
from mlip.so3.fourier import fourier_to_harmonics, harmonics_to_fourier
from mlip.so3.poisson import poisson, poisson_entries
from mlip.so3.quadrature import sphere_quadrature
from mlip.so3.vector_harmonics import vector_basis, vector_harmonics

Array = NDArray[np.float64]


def harmonics(points: Array, lmax: int) -> Array:
    values = spherical_harmonics(torch.from_numpy(points), lmax, backend="reference")
    return values.numpy() / math.sqrt(4 * math.pi)


def waves(lmax: int) -> NDArray[np.complex128]:
    """Return the Fourier coefficients of every harmonic from the table, [(lmax+1)^2, v, u]."""
    table = harmonics_to_fourier(lmax)
    out = np.zeros((size(lmax), 2 * lmax + 1, 2 * lmax + 1), dtype=np.complex128)
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            out[l * l + l + m, lmax + m] += table[lmax + m, l, 0]
            out[l * l + l + m, lmax - m] += table[lmax - m, l, 1]
    return out


class TestFourier:
    @pytest.mark.parametrize("lmax", [0, 1, 4, 18])
    def test_series_equal_harmonics(self, lmax: int) -> None:
        theta, phi = np.random.default_rng(0).uniform(size=(2, 40)) * np.array([[math.pi], [2 * math.pi]])
        points = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], axis=1)
        k = np.arange(-lmax, lmax + 1)
        series = np.einsum("pv,pu,ivu->pi", np.exp(1j * np.outer(phi, k)), np.exp(1j * np.outer(theta, k)), waves(lmax))
        np.testing.assert_allclose(series, harmonics(points, lmax), rtol=0, atol=1e-13)

    @pytest.mark.parametrize(("l_in", "l_out"), [(0, 0), (3, 3), (18, 18), (5, 2), (3, 4), (36, 18)])
    def test_back_is_the_inverse(self, l_in: int, l_out: int) -> None:
        table, k = fourier_to_harmonics(l_in, l_out), min(l_in, l_out)
        f = waves(l_in)[:, l_in - k : l_in + k + 1]
        back = np.zeros((size(l_in), size(l_out)), dtype=np.complex128)
        for l in range(l_out + 1):
            for m in range(-min(l, k), min(l, k) + 1):
                back[:, l * l + l + m] = f[:, k + m] @ table[k + m, :, l, 0] + f[:, k - m] @ table[k - m, :, l, 1]
        np.testing.assert_allclose(back, np.eye(size(l_in), size(l_out)), rtol=0, atol=1e-13)

    def test_negative_degrees_are_refused(self) -> None:
        with pytest.raises(OptionError, match="degree -1"):
            harmonics_to_fourier(-1)
        with pytest.raises(OptionError, match="degree -2"):
            fourier_to_harmonics(1, -2)


@pytest.fixture(scope="module")
def sphere() -> tuple[Array, Array, Array]:
    """Harmonics [P, M] up to degree 8, their gradients on the sphere [P, M, 3], and r sqrt of the weights [P, 3]."""
    points, weights = sphere_quadrature(24)
    r = torch.from_numpy(points).requires_grad_()
    values = spherical_harmonics(r, 8, backend="reference") / math.sqrt(4 * math.pi)
    every = torch.eye(size(8), dtype=torch.float64)[1:, None].expand(-1, len(points), -1)
    (slopes,) = torch.autograd.grad(values, r, every, is_grads_batched=True)
    gradients = torch.cat([torch.zeros(1, len(points), 3, dtype=torch.float64), slopes]).permute(1, 0, 2)
    return values.detach().numpy(), gradients.numpy(), points * weights[:, None]


class TestPoisson:
    @pytest.mark.parametrize("l1", range(9))
    def test_integrals(self, sphere: tuple[Array, Array, Array], l1: int) -> None:
        values, gradients, r = sphere
        left = np.cross(r[:, None], gradients[:, block(l1)])  # r . (a x b) = (r x a) . b
        for l2 in range(9):
            bracket = np.einsum("pie,pje->pij", left, gradients[:, block(l2)])
            for l3 in range(abs(l1 - l2), min(l1 + l2, 8) + 1):
                exact = np.einsum("pij,pk->ijk", bracket, values[:, block(l3)])
                np.testing.assert_allclose(poisson(l1, l2, l3), exact, rtol=0, atol=1e-13 * max(1, l1 * l2))
                assert (np.abs(exact).max() > 1e-2) == ((l1 + l2 + l3) % 2 == 1)

    def test_antisymmetric(self) -> None:
        for l1, l2, l3 in ((1, 1, 1), (2, 3, 4), (7, 8, 8)):
            np.testing.assert_allclose(poisson(l2, l1, l3), -poisson(l1, l2, l3).transpose(1, 0, 2), rtol=0, atol=1e-12)
            np.testing.assert_allclose(poisson(l2, l3, l1), poisson(l1, l2, l3).transpose(1, 2, 0), rtol=0, atol=1e-12)

    def test_degree_1_is_the_cross_product(self) -> None:
        cross = np.stack([np.cross(np.eye(3)[i], np.eye(3)) for i in range(3)])
        np.testing.assert_allclose(poisson(1, 1, 1), math.sqrt(3 / (4 * math.pi)) * cross, rtol=0, atol=1e-15)

    def test_entries(self) -> None:
        index, coefficients = poisson_entries(3, 2, 4)
        dense = np.zeros((size(4), size(3), size(2)))
        dense[tuple(index.T)] = coefficients
        for a, b, c in np.ndindex(4, 3, 5):
            expected = poisson(a, b, c).transpose(2, 0, 1) if abs(a - b) <= c <= a + b else 0
            np.testing.assert_allclose(dense[block(c), block(a), block(b)], expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("triple", [(1, 1, 3), (-1, 1, 1), (4, 1, 2)])
    def test_no_triangle(self, triple: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match="triangle"):
            poisson(*triple)


class TestVectorHarmonics:
    @pytest.mark.parametrize("j", range(6))
    def test_orthonormal(self, j: int) -> None:
        for l in (j - 1, j, j + 1) if j else (1,):
            flat = vector_harmonics(l, j).reshape(2 * j + 1, -1)
            np.testing.assert_allclose(flat @ flat.T, np.eye(2 * j + 1), rtol=0, atol=1e-14)

    def test_equivariant(self, rotations: list[Array], wigner_d: Callable[[Array, int], list[Array]]) -> None:
        for rotation in rotations:
            d = wigner_d(rotation, 4)
            for l, j in ((0, 1), (2, 2), (4, 3), (1, 2)):
                t = vector_harmonics(l, j)
                turned = np.einsum("nm,mek,fe,qk->nfq", d[j], t, rotation, d[l])
                np.testing.assert_allclose(turned, t, rtol=0, atol=1e-12)

    def test_equal_degrees_are_turned_gradients(self, sphere: tuple[Array, Array, Array]) -> None:
        values, gradients, _ = sphere
        points, _ = sphere_quadrature(24)
        for j in range(1, 7):
            field = np.einsum("mek,pk->pme", vector_harmonics(j, j), values[:, block(j)])
            turned = np.cross(points[:, None], gradients[:, block(j)]) / math.sqrt(j * (j + 1))
            sign = np.sign(np.sum(field * turned))
            np.testing.assert_allclose(field, sign * turned, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("shift", [-1, 0, 1])
    def test_basis(self, shift: int) -> None:
        basis = vector_basis(3, shift)
        assert basis.shape == (16, 3, size(3 + shift))
        np.testing.assert_array_equal(basis[block(2), :, block(2 + shift)], vector_harmonics(2 + shift, 2))
        assert (np.abs(basis[0]).max() > 0) == (shift == 1)
        assert np.count_nonzero(np.abs(basis).sum((1, 2))) == (16 if shift == 1 else 15)
        assert vector_basis(0, shift).shape == (1, 3, size(max(shift, 0)))

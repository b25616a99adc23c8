"""The basis of equivariant polynomials: dimensions from characters, equivariance, and its pinned order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlip.so3.degrees import size
from mlip.so3.symmetric_power import fold, symmetric_basis

Array = NDArray[np.float64]
CASES = [(lmax, nu, l) for lmax in (0, 1, 2, 3) for nu in (1, 2, 3) for l in range(4)]
REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


def values(x: Array, lmax: int, nu: int, l: int) -> Array:
    """Return the polynomials at x [(lmax+1)^2], [K, 2l+1]."""
    basis = symmetric_basis(lmax, nu, l)
    return np.einsum("pkm,p->km", basis.coefficients, x[basis.monomials].prod(axis=1))


def dimension(lmax: int, nu: int, l: int) -> int:
    """Multiplicity of (l, (-1)^l) in the symmetric power, by averaging characters over O(3)."""
    angle = (np.arange(4000) + 0.5) * np.pi / 4000
    measure = (1 - np.cos(angle)) / 4000

    def character(degree: int, times: int, parity: int) -> Array:
        turn = sum(np.cos(m * times * angle) for m in range(-degree, degree + 1))
        return np.asarray(turn * (parity**times) ** degree)

    total = 0.0
    for parity in (1, -1):
        p1, p2, p3 = (sum(character(d, k, parity) for d in range(lmax + 1)) for k in (1, 2, 3))
        power = {1: p1, 2: (p1**2 + p2) / 2, 3: (p1**3 + 3 * p1 * p2 + 2 * p3) / 6}[nu]
        total += 0.5 * float((measure * power * character(l, 1, parity)).sum())
    assert abs(total - round(total)) < 1e-6
    return round(total)


@pytest.mark.parametrize(("l", "expected"), [(0, (1, 4, 8)), (1, (1, 3, 12))])
def test_dimensions_of_mace(l: int, expected: tuple[int, int, int]) -> None:
    assert tuple(symmetric_basis(3, nu, l).coefficients.shape[1] for nu in (1, 2, 3)) == expected


@pytest.mark.parametrize(("lmax", "nu", "l"), CASES)
def test_the_basis_is_complete_and_independent(lmax: int, nu: int, l: int) -> None:
    basis = symmetric_basis(lmax, nu, l)
    count = basis.coefficients.shape[1]
    assert count == dimension(lmax, nu, l)
    assert basis.coefficients.shape == (len(basis.monomials), count, 2 * l + 1)
    flat = basis.coefficients.transpose(1, 0, 2).reshape(count, basis.coefficients.shape[0] * (2 * l + 1))
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1.0, atol=1e-12)
    if count:
        assert np.linalg.svd(flat, compute_uv=False).min() > 0.01


@pytest.mark.parametrize(("lmax", "nu", "l"), [(1, 3, 1), (2, 2, 2), (2, 3, 0), (3, 2, 1), (3, 3, 2)])
def test_monomials_and_rows(lmax: int, nu: int, l: int) -> None:
    basis = symmetric_basis(lmax, nu, l)
    every = list(itertools.combinations_with_replacement(range(size(lmax)), nu))
    assert [every[row] for row in basis.rows] == [tuple(m) for m in basis.monomials.tolist()]
    assert list(basis.rows) == sorted(set(basis.rows.tolist()))
    assert np.abs(basis.coefficients).max(axis=(1, 2)).min() > 0  # no monomial without use


@pytest.mark.parametrize(("lmax", "nu", "l"), [(1, 2, 1), (2, 3, 2), (3, 1, 3), (3, 2, 2), (3, 3, 0), (3, 3, 1)])
def test_equivariance(lmax: int, nu: int, l: int, rotations: list[Array],
                      wigner_d: Callable[[Array, int], list[Array]]) -> None:
    x = np.random.default_rng(5).normal(size=size(lmax))
    for matrix in (*rotations, *(-r for r in rotations)):
        d = wigner_d(matrix, 3)
        turned = np.concatenate([d[k] @ x[k * k : (k + 1) ** 2] for k in range(lmax + 1)])
        np.testing.assert_allclose(values(turned, lmax, nu, l), values(x, lmax, nu, l) @ d[l].T, rtol=0, atol=1e-10)


def test_order_and_signs_that_saved_weights_rely_on() -> None:
    with np.load(REFERENCE / "symmetric_basis.npz") as file:
        for key in file.files:
            lmax, nu, l = (int(n) for n in key.split("/"))
            x = np.sin(1.0 + np.arange(size(lmax)))
            np.testing.assert_allclose(values(x, lmax, nu, l), file[key], rtol=0, atol=1e-12, err_msg=key)


@pytest.mark.parametrize(("lmax", "nu"), [(0, 1), (1, 1), (1, 2), (2, 2), (1, 3)])
def test_fold(lmax: int, nu: int) -> None:
    m = size(lmax)
    tensor = np.random.default_rng(0).normal(size=(m,) * nu + (3,))
    folded = fold(tensor, lmax, nu)
    assert folded.shape == (math.comb(m + nu - 1, nu), 3)
    for row, monomial in zip(folded, itertools.combinations_with_replacement(range(m), nu), strict=True):
        np.testing.assert_allclose(row, sum(tensor[order] for order in set(itertools.permutations(monomial))),
                                   atol=1e-13)
    x = np.random.default_rng(1).normal(size=m)
    monomials = np.array([x[list(c)].prod() for c in itertools.combinations_with_replacement(range(m), nu)])
    full = tensor
    for _ in range(nu):
        full = np.tensordot(x, full, axes=1)
    np.testing.assert_allclose(monomials @ folded, full, atol=1e-12)

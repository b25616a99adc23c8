"""A basis of the equivariant polynomials of a feature vector: the many-body part of MACE.

The features are the natural-parity components x of degrees 0..lmax. An equivariant polynomial of degree nu
with values in degree l is a linear combination of couplings ((x x)_{l12} x)_l ...; symmetry in the factors
makes many of the couplings linearly dependent (23 couplings of three factors with lmax = 3 and l = 0 span
only 8 dimensions). We keep the first independent ones, in the order in which they are enumerated, so that
the basis is the same on every machine. MACE-Gaunt uses one of them for each nu and l: `gaunt_basis`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

from mlip.so3.degrees import block, size
from mlip.so3.harmonics import harmonics, norms
from mlip.so3.quadrature import sphere_quadrature
from mlip.so3.wigner3j import wigner_3j

TOLERANCE = 1e-9


@dataclass(frozen=True)
class SymmetricBasis:
    """Equivariant polynomials of one degree nu with values in degree l.

    Attributes:
        monomials: [P, nu] int64, ascending indices of the factors.
        coefficients: [P, K, 2l+1] float64; polynomial k, component m is the sum over p of
            coefficients[p, k, m] times the product of the factors of monomial p.
        rows: [P] int64, position of each monomial among all of that degree, ascending.
    """

    monomials: NDArray[np.int64]
    coefficients: NDArray[np.float64]
    rows: NDArray[np.int64]


@cache
def symmetric_basis(lmax: int, nu: int, l: int) -> SymmetricBasis:
    """Return the basis of degree-`nu` polynomials of degrees 0..`lmax` with values in degree `l`.

    Args:
        lmax: largest degree of the features.
        nu: number of factors, at least 1.
        l: degree of the values.

    Returns:
        The basis; every member has norm 1 over its coefficients.
    """
    members: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    families: dict[tuple[int, ...], list[NDArray[np.float64]]] = {}  # orthonormal; two families share no monomial
    for factors, tensor in _couplings(lmax, nu, l):
        rows, folded = _fold_block(tensor, lmax, factors)
        norm = np.linalg.norm(folded)
        if norm < TOLERANCE:
            continue
        family = families.setdefault(tuple(sorted(factors)), [])
        candidate = rest = folded / norm
        for _ in range(2):  # the second pass removes what rounding left
            for q in family:
                rest = rest - q * np.vdot(q, rest)
        if np.linalg.norm(rest) > TOLERANCE:
            members.append((rows, candidate))
            family.append(rest / np.linalg.norm(rest))
    stack = np.zeros((len(_monomials(lmax, nu)), len(members), 2 * l + 1))
    for k, (rows, member) in enumerate(members):
        stack[rows, k] = member
    used = np.flatnonzero(np.abs(stack).max(axis=(1, 2), initial=0) > TOLERANCE)
    coefficients = np.where(np.abs(stack) > TOLERANCE, stack, 0.0)[used]
    return SymmetricBasis(_monomials(lmax, nu)[used], coefficients, used)


@cache
def gaunt_basis(lmax: int, nu: int, l: int, normalization: str) -> SymmetricBasis:
    """Return the one polynomial of degree `nu` that is the power of a function on the sphere, projected on degree `l`.

    Args:
        lmax: largest degree of the features, the coefficients of the function.
        nu: number of factors, at least 1.
        l: degree of the values.
        normalization: of the harmonics, one of `mlip.so3.harmonics.NORMALIZATIONS`.

    Returns:
        A basis with one member.
    """
    points, weights = sphere_quadrature(nu * lmax + l)
    signal, values = (harmonics(points, d) for d in (lmax, l))
    project = weights[:, None] * (values / norms(l, normalization))[:, block(l)]
    monomials = _monomials(lmax, nu)
    products = np.ones((len(points), len(monomials)))
    for factor in monomials.T:
        products *= (signal * norms(lmax, normalization))[:, factor]
    repeats = [factorial(nu) // prod(factorial(n) for n in Counter(row).values()) for row in monomials.tolist()]
    coefficients = (products.T @ project) * np.array(repeats)[:, None]
    used = np.flatnonzero(np.abs(coefficients).max(axis=1) > TOLERANCE)
    kept = np.where(np.abs(coefficients) > TOLERANCE, coefficients, 0.0)[used]
    return SymmetricBasis(monomials[used], kept[:, None], used)


def fold(tensor: NDArray[np.float64], lmax: int, nu: int) -> NDArray[np.float64]:
    """Add up the entries of a tensor [M]*nu + [2l+1] that belong to the same monomial, [P, 2l+1].

    P runs over all monomials of degree `nu` in M = (lmax+1)^2 variables, ascending.
    """
    return _sums(tensor, _places(lmax, nu).ravel(), len(_monomials(lmax, nu)))


def _fold_block(tensor: NDArray[np.float64], lmax: int,
                factors: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of the monomials whose factors have these degrees, and the sums of the entries for each."""
    rows, places = np.unique(_places(lmax, len(factors))[tuple(block(d) for d in factors)], return_inverse=True)
    return rows, _sums(tensor, places.ravel(), len(rows))


def _sums(tensor: NDArray[np.float64], places: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    columns = tensor.reshape(-1, tensor.shape[-1]).T
    return np.stack([np.bincount(places, weights=column, minlength=count) for column in columns], axis=1)


@cache
def _places(lmax: int, nu: int) -> NDArray[np.int64]:
    """Return the row of the monomial to which each entry of a tensor belongs, [M]*nu."""
    m = size(lmax)
    indices = np.sort(np.indices((m,) * nu).reshape(nu, -1), axis=0)
    keys = np.ravel_multi_index(tuple(indices), (m,) * nu)
    table = np.ravel_multi_index(tuple(_monomials(lmax, nu).T), (m,) * nu)
    places: NDArray[np.int64] = np.searchsorted(table, keys).reshape((m,) * nu)
    return places


@cache
def _monomials(lmax: int, nu: int) -> NDArray[np.int64]:
    return np.array(list(combinations_with_replacement(range(size(lmax)), nu)), dtype=np.int64)


def _couplings(lmax: int, nu: int, l: int) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """Yield degrees and tensor of the left-nested couplings of nu factors to degree l, [2*l_i+1 for i in nu] + [2l+1].

    Each factor, and the value, has the parity (-1)^degree; intermediate parities are free.
    """
    for degrees, tensor in _nested(lmax, nu):
        if degrees[-1] == l and sum(degrees[:nu]) % 2 == l % 2:
            yield degrees[:nu], tensor


def _nested(lmax: int, nu: int) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """Yield ((l_1, ..., l_nu, L), tensor) for every way to couple nu factors one after another."""
    if nu == 1:
        for d in range(lmax + 1):
            yield (d, d), np.eye(2 * d + 1)
        return
    for degrees, tensor in _nested(lmax, nu - 1):
        last = degrees[-1]
        for d in range(lmax + 1):
            for total in range(abs(last - d), last + d + 1):
                coupled = np.tensordot(tensor, wigner_3j(last, d, total), axes=(-1, 0)) * np.sqrt(2 * total + 1)
                yield (*degrees[:-1], d, total), coupled

"""A basis of the equivariant polynomials of a feature vector: the many-body part of MACE.

The features are the natural-parity components x of degrees 0..lmax. An equivariant polynomial of degree nu
with values in degree l is a linear combination of couplings ((x x)_{l12} x)_l ...; symmetry in the factors
makes many of the couplings linearly dependent (23 couplings of three factors with lmax = 3 and l = 0 span
only 8 dimensions). We keep the first independent ones, in the order in which they are enumerated, so that
the basis is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from mlip.so3.degrees import block, size
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
    members: list[NDArray[np.float64]] = []
    orthonormal: list[NDArray[np.float64]] = []
    for coupling in _couplings(lmax, nu, l):
        folded = fold(coupling, lmax, nu)
        norm = np.linalg.norm(folded)
        if norm < TOLERANCE:
            continue
        candidate = rest = folded / norm
        for _ in range(2):  # the second pass removes what rounding left
            for q in orthonormal:
                rest = rest - q * np.vdot(q, rest)
        if np.linalg.norm(rest) > TOLERANCE:
            members.append(candidate)
            orthonormal.append(rest / np.linalg.norm(rest))
    stack = np.stack(members, axis=1) if members else np.zeros((len(_monomials(lmax, nu)), 0, 2 * l + 1))
    used = np.flatnonzero(np.abs(stack).max(axis=(1, 2), initial=0) > TOLERANCE)
    coefficients = np.where(np.abs(stack) > TOLERANCE, stack, 0.0)[used]
    return SymmetricBasis(_monomials(lmax, nu)[used], coefficients, used)


def fold(tensor: NDArray[np.float64], lmax: int, nu: int) -> NDArray[np.float64]:
    """Add up the entries of a tensor [M]*nu + [2l+1] that belong to the same monomial, [P, 2l+1].

    P runs over all monomials of degree `nu` in M = (lmax+1)^2 variables, ascending.
    """
    m = size(lmax)
    indices = np.sort(np.indices((m,) * nu).reshape(nu, -1), axis=0)
    keys = np.ravel_multi_index(tuple(indices), (m,) * nu)
    table = np.ravel_multi_index(tuple(_monomials(lmax, nu).T), (m,) * nu)
    out = np.zeros((len(table), tensor.shape[-1]))
    np.add.at(out, np.searchsorted(table, keys), tensor.reshape(-1, tensor.shape[-1]))
    return out


@cache
def _monomials(lmax: int, nu: int) -> NDArray[np.int64]:
    return np.array(list(combinations_with_replacement(range(size(lmax)), nu)), dtype=np.int64)


def _couplings(lmax: int, nu: int, l: int) -> Iterator[NDArray[np.float64]]:
    """Yield the left-nested couplings of nu factors to degree l, as tensors [M]*nu + [2l+1].

    Each factor, and the value, has the parity (-1)^degree; intermediate parities are free.
    """
    m = size(lmax)
    for degrees, tensor in _nested(lmax, nu):
        if degrees[-1] == l and sum(degrees[:nu]) % 2 == l % 2:
            full = np.zeros((m,) * nu + (2 * l + 1,))
            factors = degrees[:nu]
            full[tuple(block(d) for d in factors)] = tensor
            yield full


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

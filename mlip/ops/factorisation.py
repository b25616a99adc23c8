"""Splits the monomials of the symmetric contraction into two factors each, so that few products are formed twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mlip.so3.degrees import size
from mlip.so3.symmetric_power import SymmetricBasis, gaunt_basis, symmetric_basis

COMPLETE = "complete"
Monomial = tuple[int, ...]  # ascending indices of features


@dataclass(frozen=True)
class Factorisation:
    """The contraction as sums over groups (m, G) of the factor G times a sum over entries of coefficient times leaf.

    Factors and leaves are slots: below M the features, M the number 1, M + 1 + i the product i.

    Attributes:
        products: [P, 2] int64, pairs of features.
        groups: [G, 3] int64: component m of the result, slot of the factor, last entry + 1.
        leaves: [E] int64, slot of the leaf of each entry.
        terms: [T, 2] int64: entry and coupling, ascending; couplings are counted over degrees, then orders.
        coefficients: [T] float64; the coefficient of an entry is the sum over its terms of these times the weights.
    """

    products: NDArray[np.int64]
    groups: NDArray[np.int64]
    leaves: NDArray[np.int64]
    terms: NDArray[np.int64]
    coefficients: NDArray[np.float64]


def basis_of(kind: str, lmax: int, nu: int, l: int) -> SymmetricBasis:
    """Return all independent polynomials (`COMPLETE`), or the power on the sphere in the normalisation `kind`."""
    return symmetric_basis(lmax, nu, l) if kind == COMPLETE else gaunt_basis(lmax, nu, l, kind)


@cache
def factorise(lmax: int, orders: tuple[int, ...], basis: str = COMPLETE) -> Factorisation:
    """Return the factorised contraction.

    Args:
        lmax: largest degree of the features.
        orders: for each degree of the result, the number of factors up to which its polynomials go, at most 4.
        basis: see `basis_of`.
    """
    entries = _entries(lmax, orders, basis)
    splits = _split(entries)
    pairs = sorted({part for split in splits.values() for part in split if len(part) == 2})
    features = size(lmax)
    slot: dict[Monomial, int] = {(i,): i for i in range(features)} | {(): features}
    slot |= {pair: features + 1 + i for i, pair in enumerate(pairs)}
    groups: list[list[int]] = []
    leaves, terms, coefficients = [], [], []
    place = {key: (key[0], slot[factor], slot[leaf]) for key, (factor, leaf) in splits.items()}
    for entry, key in enumerate(sorted(place, key=lambda key: place[key])):
        component, factor, leaf = place[key]
        if not groups or groups[-1][:2] != [component, factor]:
            groups.append([component, factor, entry])
        groups[-1][2] = entry + 1
        leaves.append(leaf)
        for coupling, coefficient in entries[key]:
            terms.append((entry, coupling))
            coefficients.append(coefficient)
    return Factorisation(_rows(pairs, 2), _rows(groups, 3), np.array(leaves, dtype=np.int64), _rows(terms, 2),
                         np.array(coefficients, dtype=np.float64))


def _rows(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _entries(lmax: int, orders: tuple[int, ...], kind: str) -> dict[tuple[int, Monomial], list[tuple[int, float]]]:
    """Return couplings and coefficients of each monomial of each component."""
    entries: dict[tuple[int, Monomial], list[tuple[int, float]]] = defaultdict(list)
    first = 0
    for l, order in enumerate(orders):
        for nu in range(1, order + 1):
            basis = basis_of(kind, lmax, nu, l)
            monomials = [tuple(row) for row in basis.monomials.tolist()]
            for p, k, m in np.argwhere(basis.coefficients).tolist():
                entries[l * l + m, monomials[p]].append((first + k, float(basis.coefficients[p, k, m])))
            first += basis.coefficients.shape[1]
    return entries


def _split(keys: Iterable[tuple[int, Monomial]]) -> dict[tuple[int, Monomial], tuple[Monomial, Monomial]]:
    """Return factor and leaf of each monomial: a feature and what is left, or two pairs for degree four.

    Products are formed once for all components, so the leaves of degree three are chosen for all together;
    the other choices reduce the number of groups.
    """
    by_degree: dict[tuple[int, int], list[Monomial]] = defaultdict(list)
    for component, monomial in keys:
        by_degree[len(monomial), component].append(monomial)
    cubic = sorted({m for (degree, _), ms in by_degree.items() if degree == 3 for m in ms})
    leaf_of = _cover({m: set(combinations(m, 2)) for m in cubic})
    out = {}
    for (degree, component), monomials in by_degree.items():
        factors: Mapping[Monomial, Monomial] = (
            {m: _rest(m, leaf_of[m]) for m in monomials} if degree == 3
            else _cover({m: set(combinations(m, (degree + 1) // 2)) for m in monomials}))
        out.update({(component, m): (factors[m], _rest(m, factors[m])) for m in monomials})
    return out


def _rest(monomial: Monomial, part: Monomial) -> Monomial:
    left = Counter(monomial)
    left.subtract(part)
    return tuple(sorted(left.elements()))


def _cover(options: Mapping[Monomial, set[Monomial]]) -> dict[Monomial, Monomial]:
    """Choose one option for each monomial so that few different ones are chosen: always the most frequent first."""
    users: dict[Monomial, set[Monomial]] = defaultdict(set)
    for monomial, parts in options.items():
        for part in parts:
            users[part].add(monomial)
    chosen: dict[Monomial, Monomial] = {}
    while len(chosen) < len(options):
        best = max(sorted(users), key=lambda part: len(users[part]))
        for monomial in sorted(users[best]):
            chosen[monomial] = best
            for part in options[monomial]:
                users[part].discard(monomial)
    return chosen

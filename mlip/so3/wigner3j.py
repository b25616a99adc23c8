"""Wigner 3j tensors of the real spherical harmonics, in closed form.

Basis: degree l has the 2l+1 components m = -l..l, sin|m|a for m < 0, cos(ma) for m > 0, polar axis y, no
Condon-Shortley sign, so that l = 1 is proportional to (x, y, z): the convention of e3nn.

A tensor is fixed up to its sign. Ours is the sign of e3nn 0.4.4, in which the weights of every public MACE
model are written; later versions of e3nn changed it. We therefore take no table from e3nn at all: the
values follow from Racah's formula, and the sign from the rules in `_sign`.
"""

from __future__ import annotations

from functools import cache
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return the invariant tensor that couples three degrees, [2*l1+1, 2*l2+1, 2*l3+1], Frobenius norm 1.

    Args:
        l1: first degree, at least 0.
        l2: second degree.
        l3: third degree, |l1-l2| <= l3 <= l1+l2.

    Raises:
        ValueError: degrees that do not form a triangle.
    """
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2}, {l3} do not form a triangle |l1-l2| <= l3 <= l1+l2")
    a, b, c = sorted((l1, l2, l3))
    tensor = real_3j(a, b, c) * _sign(a, b, c)
    order = np.argsort(np.argsort((l1, l2, l3), kind="stable"), kind="stable")
    out = np.ascontiguousarray(tensor.transpose(*order))
    if (l1 + l2 + l3) % 2 and _odd(tuple(order)):
        out = -out
    out.setflags(write=False)
    return out


def _odd(permutation: tuple[int, ...]) -> bool:
    inversions = sum(permutation[i] > permutation[j] for i in range(3) for j in range(i + 1, 3))
    return inversions % 2 == 1


def _sign(l1: int, l2: int, l3: int) -> int:
    """Sign of e3nn 0.4.4 for ascending degrees, relative to `real_3j`.

    Even sums: the one that makes every Gaunt coefficient int Y Y Y a positive multiple of the tensor.
    Odd sums: no rule is known; the triples up to degree 6 were compared one by one.
    """
    if (l1 + l2 + l3) % 2:
        return -1 if (l1, l2, l3) in _NEGATIVE else 1
    return 1 if symbol(l1, l2, l3, 0, 0) >= 0 else -1


_NEGATIVE = frozenset({(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 6, 6), (2, 2, 3), (2, 4, 5), (3, 3, 5), (3, 4, 4),
                       (3, 4, 6), (3, 6, 6), (4, 4, 5), (5, 6, 6)})


def real_3j(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return the tensor in the real basis, with the sign that the complex 3j symbols give it; degrees in any order."""
    complex_3j = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            complex_3j[m1 + l1, m2 + l2, l3 - m1 - m2] = symbol(l1, l2, l3, m1, m2)
    tensor = np.einsum("ai,bj,ck,ijk->abc", _real_basis(l1), _real_basis(l2), _real_basis(l3), complex_3j,
                       optimize=True)
    return np.ascontiguousarray(tensor.imag if (l1 + l2 + l3) % 2 else tensor.real)


def symbol(l1: int, l2: int, l3: int, m1: int, m2: int) -> float:
    """Wigner 3j symbol (l1 l2 l3; m1 m2 -m1-m2) by Racah's formula, in exact integers up to the roots."""
    m3 = -m1 - m2
    common = factorial(l1 + l2 + l3)  # the arguments below add up to this, so every denominator divides it
    total = 0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = (factorial(k) * factorial(l1 + l2 - l3 - k) * factorial(l1 - m1 - k) * factorial(l2 + m2 - k)
                       * factorial(l3 - l2 + m1 + k) * factorial(l3 - l1 - m2 + k))
        total += (-1) ** k * common // denominator
    triangle = (factorial(l1 + l2 - l3) * factorial(l1 - l2 + l3) * factorial(-l1 + l2 + l3)
                / factorial(l1 + l2 + l3 + 1))
    products = 1
    for l, m in ((l1, m1), (l2, m2), (l3, m3)):
        products *= factorial(l + m) * factorial(l - m)
    sign = -1 if (l1 - l2 - m3) % 2 else 1
    return sign * sqrt(triangle) * sqrt(products) * total / common


def _real_basis(l: int) -> NDArray[np.complex128]:
    """Matrix [2l+1, 2l+1]: row m of the real harmonics in terms of the complex ones."""
    q = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    q[l, l] = 1
    for m in range(1, l + 1):
        q[l + m, l - m], q[l + m, l + m] = 1 / sqrt(2), (-1) ** m / sqrt(2)
        q[l - m, l - m], q[l - m, l + m] = 1j / sqrt(2), -1j * (-1) ** m / sqrt(2)
    return q

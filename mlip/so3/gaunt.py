"""Gaunt coefficients: integrals of three real spherical harmonics, which multiply functions on the sphere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from mlip.so3.degrees import block
from mlip.so3.wigner3j import symbol, wigner_3j

Entries = tuple[NDArray[np.int64], NDArray[np.float64]]


@cache
def gaunt(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return the integral of Y_l1 Y_l2 Y_l3 over the unit sphere, [2*l1+1, 2*l2+1, 2*l3+1].

    The harmonics are orthonormal. The tensor is the Wigner 3j tensor times
    sqrt((2 l1 + 1)(2 l2 + 1)(2 l3 + 1) / 4 pi) |3j(l1 l2 l3; 0 0 0)|, and zero where l1 + l2 + l3 is odd.

    Args:
        l1: first degree, at least 0.
        l2: second degree.
        l3: third degree, |l1-l2| <= l3 <= l1+l2.

    Raises:
        ValueError: degrees that do not form a triangle.
    """
    out = wigner_3j(l1, l2, l3) * gaunt_scale(l1, l2, l3)
    out.setflags(write=False)
    return out


def gaunt_scale(l1: int, l2: int, l3: int) -> float:
    """Return the factor between the Wigner 3j tensor and the Gaunt coefficients, never negative."""
    return sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * pi)) * abs(symbol(l1, l2, l3, 0, 0))


def gaunt_entries(l1: int, l2: int, l3: int) -> Entries:
    """Return the coefficients that are not zero of all degrees up to `l1`, `l2`, `l3`.

    Returns:
        Flat components [T, 3] of the product, the first and the second factor, ascending; coefficients [T].
    """
    return entries(gaunt, l1, l2, l3, parity=0)


def zonal_entries(l1: int, l2: int, l3: int) -> Entries:
    """Return `gaunt_entries` for second factors that are symmetric around the polar axis: those with order m = 0."""
    index, coefficients = gaunt_entries(l1, l2, l3)
    degree = np.sqrt(index[:, 2]).astype(np.int64)
    chosen = index[:, 2] == degree * (degree + 1)
    return index[chosen], coefficients[chosen]


def entries(tensor: Callable[[int, int, int], NDArray[np.float64]], l1: int, l2: int, l3: int, parity: int) -> Entries:
    """Return what is not zero in the tensors of all degrees up to `l1`, `l2`, `l3`, as `gaunt_entries` does.

    Args:
        tensor: gives the tensor of three degrees, [2*l1+1, 2*l2+1, 2*l3+1].
        l1: largest degree of the first factor.
        l2: of the second.
        l3: of the product.
        parity: of the sum of three degrees; others have no tensor.
    """
    index, coefficients = [np.empty((0, 3), dtype=np.int64)], [np.empty(0)]
    for a, b in np.ndindex(l1 + 1, l2 + 1):
        for c in range(abs(a - b), min(a + b, l3) + 1):
            if (a + b + c) % 2 != parity:
                continue
            values = tensor(a, b, c)
            i, j, k = np.nonzero(np.abs(values) > 1e-12)
            index.append(np.stack([k + block(c).start, i + block(a).start, j + block(b).start], axis=1))
            coefficients.append(values[i, j, k])
    joined, values = np.concatenate(index), np.concatenate(coefficients)
    order = np.lexsort(joined.T[::-1])
    return joined[order].astype(np.int64), values[order]

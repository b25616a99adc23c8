"""Poisson brackets of spherical harmonics: antisymmetric couplings, which products of functions do not reach."""

from __future__ import annotations

from functools import cache
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from mlip.so3.gaunt import Entries, entries
from mlip.so3.wigner3j import real_3j, symbol


@cache
def poisson(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return the integral of r . (grad Y_l1 x grad Y_l2) Y_l3 over the unit sphere, [2*l1+1, 2*l2+1, 2*l3+1].

    The harmonics are orthonormal. The gradients are harmonics of spin 1 and -1, times sqrt(l(l+1)), so that the tensor
    is the real 3j tensor times 3j(l1 l2 l3; -1 1 0) sqrt(l1(l1+1) l2(l2+1)) sqrt((2 l1+1)(2 l2+1)(2 l3+1) / 4 pi): an
    integral of three spin-weighted harmonics. It changes sign where two degrees change places, and is zero where
    l1 + l2 + l3 is even. The bracket is the product of Bochkarev et al. (arXiv 2605.15073).

    Args:
        l1: first degree, at least 0.
        l2: second degree.
        l3: third degree, |l1-l2| <= l3 <= l1+l2.

    Raises:
        ValueError: degrees that do not form a triangle.
    """
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2}, {l3} do not form a triangle |l1-l2| <= l3 <= l1+l2")
    if (l1 + l2 + l3) % 2 == 0:
        out = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    else:
        scale = sqrt(l1 * (l1 + 1) * l2 * (l2 + 1) * (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * pi))
        out = real_3j(l1, l2, l3) * (scale * symbol(l1, l2, l3, -1, 1))
    out.setflags(write=False)
    return out


def poisson_entries(l1: int, l2: int, l3: int) -> Entries:
    """Return the coefficients of the Poisson bracket that are not zero, of all degrees up to `l1`, `l2`, `l3`.

    Args:
        l1: largest degree of the first factor.
        l2: of the second.
        l3: of the bracket.

    Returns:
        Flat components [T, 3] of the bracket, the first and the second factor, ascending; coefficients [T].
    """
    return entries(poisson, l1, l2, l3, parity=1)

"""Vector spherical harmonics: fields of vectors on the sphere that turn like harmonics of one degree."""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from mlip.so3.degrees import block, size
from mlip.so3.wigner3j import wigner_3j


@cache
def vector_harmonics(l: int, j: int) -> NDArray[np.float64]:
    """Return the vector harmonics of degree `j` whose Cartesian components are harmonics of degree `l`.

    T[m, e, k] = sqrt(2j+1) w3j(l, 1, j)[k, e, m], orthonormal in m (Xie et al., arXiv 2602.21466): sum_m c_m T[m] is
    the vector signal of coefficients c. Those with l = j are tangential and proportional to r x grad Y_j.

    Args:
        l: degree of the components, one of j-1, j, j+1 and at least 0; for j = 0 only 1.
        j: degree of the field.

    Returns:
        [2*j+1, 3, 2*l+1]; the second axis is x, y, z.

    Raises:
        ValueError: degrees that do not form a triangle with 1.
    """
    out = np.ascontiguousarray(wigner_3j(l, 1, j).transpose(2, 1, 0)) * sqrt(2 * j + 1)
    out.setflags(write=False)
    return out


def vector_basis(jmax: int, shift: int) -> NDArray[np.float64]:
    """Return the vector harmonics with l = j + shift of all degrees j up to `jmax`.

    Args:
        jmax: largest degree, at least 0.
        shift: -1, 0 or 1. With -1 and 0 there is no field of j = 0, and zeros stand in its place.

    Returns:
        [(jmax+1)^2, 3, (max(jmax+shift, 0)+1)^2].

    Raises:
        ValueError: degrees that do not form a triangle with 1.
    """
    out = np.zeros((size(jmax), 3, size(max(jmax + shift, 0))))
    for j in range(jmax + 1):
        if j or shift == 1:
            out[block(j), :, block(j + shift)] = vector_harmonics(j + shift, j)
    return out

"""Real spherical harmonics of points, for tables made in numpy."""

from __future__ import annotations

from math import factorial, pi, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from mlip.so3.degrees import size

Array = NDArray[np.float64]
NORMALIZATIONS = ("integral", "component", "norm")


def harmonics(points: Array, lmax: int) -> Array:
    """Return the orthonormal real harmonics of unit vectors, [P, (lmax+1)^2] for points [P, 3]; axes as `wigner_3j`."""
    x, y, z = points.T
    wave = np.ones_like(x) + 0j  # sin^m(b) e^(i m a)
    out = np.empty((len(points), size(lmax)))
    for m in range(lmax + 1):
        before, legendre = np.zeros_like(y), np.full_like(y, prod(range(1, 2 * m, 2)))  # P_l^m / sin^m
        for l in range(m, lmax + 1):
            scale = sqrt((2 * l + 1) * (2 if m else 1) * factorial(l - m) / factorial(l + m) / (4 * pi))
            out[:, l * l + l + m] = scale * legendre * wave.real
            if m:
                out[:, l * l + l - m] = scale * legendre * wave.imag
            before, legendre = legendre, ((2 * l + 1) * y * legendre - (l + m) * before) / (l + 1 - m)
        wave = wave * (z + 1j * x)
    return out


def norms(lmax: int, normalization: str) -> Array:
    """Return n of every component, [(lmax+1)^2]: harmonics of this normalisation are n times the orthonormal ones.

    Args:
        lmax: largest degree.
        normalization: `"integral"`, orthonormal on the sphere; `"component"`, the squares of a degree add up to
            2l+1; `"norm"`, to 1.
    """
    degree = np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)
    scale = {"integral": 0 * degree + 1.0, "component": 0 * degree + 4 * pi, "norm": 4 * pi / (2 * degree + 1)}
    out: Array = np.sqrt(scale[normalization])
    return out


def reflection_parity(lmax: int) -> NDArray[np.int64]:
    """Return which reflections change the sign of each component, [(lmax+1)^2]: bit 0 of x, 1 of y, 2 of z."""
    out = []
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            out.append((m < 0) + 2 * ((l + m) % 2) + 4 * ((m + (m < 0)) % 2))
    return np.array(out, dtype=np.int64)

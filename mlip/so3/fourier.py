"""Spherical harmonics as Fourier series in both angles, and back: the tables of the published Gaunt product.

Angles: y = cos(theta), z = sin(theta) cos(phi), x = sin(theta) sin(phi). A harmonic is a trigonometric polynomial in
theta as well, so that it goes on to theta in [0, 2 pi), the doubled sphere, and has finitely many Fourier coefficients.
"""

from __future__ import annotations

from functools import cache
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from mlip.errors import OptionError

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


def harmonics_to_fourier(lmax: int) -> Complex:
    """Return the table that turns coefficients of harmonics into those of exp(i (u theta + v phi)).

    F[v, u] = sum_l x[l, v] T[v, l, 0, u] + x[l, -v] T[v, l, 1, u] (Luo et al., ICLR 2024, arXiv 2401.10216, section 3:
    an order m couples to v = m and v = -m only). Harmonics are orthonormal.

    Args:
        lmax: largest degree, at least 0.

    Returns:
        [2*lmax+1, lmax+1, 2, 2*lmax+1]; v and u ascend from -lmax. What belongs to |v| > l is zero, and T[0, :, 1].

    Raises:
        OptionError: a negative degree.
    """
    _check(lmax)
    waves = _latitude_waves(lmax)
    table = np.zeros((2 * lmax + 1, lmax + 1, 2, 2 * lmax + 1), dtype=np.complex128)
    for v in range(-lmax, lmax + 1):
        for sign, factor in enumerate(_order_factors(v)):
            table[v + lmax, :, sign] = factor * waves[abs(v)]
    return table


def fourier_to_harmonics(l_in: int, l_out: int) -> Complex:
    """Return the table that projects a Fourier series on the harmonics, by the integral over theta in [0, pi].

    z[l, m] = sum_u F[m, u] B[m, u, l, 0] + F[-m, u] B[-m, u, l, 1], where B holds the integrals of
    exp(i (u theta + v phi)) Y[l, m] sin(theta) (Luo et al., ICLR 2024, arXiv 2401.10216, section 3). Harmonics are
    orthonormal.

    Args:
        l_in: largest |u|, at least 0; largest |v| is the smaller of both degrees.
        l_out: largest degree of the harmonics, at least 0.

    Returns:
        [2*k+1, 2*l_in+1, l_out+1, 2] with k = min(l_in, l_out); v and u ascend from -k and -l_in.

    Raises:
        OptionError: a negative degree.
    """
    _check(l_in)
    _check(l_out)
    k = min(l_in, l_out)
    moments = _sine_moments(np.add.outer(np.arange(-l_in, l_in + 1), np.arange(-l_out, l_out + 1)))
    integrals = 2 * pi * np.einsum("uw,mlw->mul", moments, _latitude_waves(l_out))
    table = np.zeros((2 * k + 1, 2 * l_in + 1, l_out + 1, 2), dtype=np.complex128)
    for v in range(-k, k + 1):
        for sign, factor in enumerate(_order_factors(v)):
            table[v + k, :, :, sign] = np.conj(factor) * integrals[abs(v)]
    return table


def _check(degree: int) -> None:
    if degree < 0:
        raise OptionError(f"a Fourier table of degree {degree} was asked for; the degree must be 0 or more")


def _order_factors(v: int) -> tuple[complex, complex]:
    """Return the coefficients of exp(i v phi) in the factors that belong to m = v and m = -v of the harmonics."""
    if v == 0:
        return 1.0, 0.0
    half = 1 / sqrt(2)  # sqrt(2) cos and sqrt(2) sin, by Euler's formula
    return (half, -1j * half) if v > 0 else (1j * half, half)


@cache
def _latitude_waves(lmax: int) -> Complex:
    """Return the Fourier coefficients in theta of the factors P_lm(theta), [m, l, u], |u| <= lmax."""
    theta = 2 * pi * np.arange(2 * lmax + 1) / (2 * lmax + 1)
    values = np.fft.fftshift(np.fft.fft(_latitude(lmax, theta), axis=-1, norm="forward"), axes=-1)
    even = np.arange(lmax + 1)[:, None, None] % 2 == 0  # cosines where m is even, sines where it is odd
    out: Complex = np.where(even, values.real, 1j * values.imag)
    return out


def _latitude(lmax: int, theta: Array) -> Array:
    """Return the factors P_lm(theta) with Y_l0 = P_l0, Y_lm = sqrt(2) P_lm cos(m phi) or sin(m phi), [m, l, points]."""
    cosine, sine = np.cos(theta), np.sin(theta)
    out = np.zeros((lmax + 1, lmax + 1, len(theta)))
    out[0, 0] = 1 / sqrt(4 * pi)
    for m in range(lmax + 1):
        if m:
            out[m, m] = sqrt((2 * m + 1) / (2 * m)) * sine * out[m - 1, m - 1]
        for l in range(m + 1, lmax + 1):
            lower = sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) * out[m, l - 2] if l > m + 1 else 0.0
            out[m, l] = sqrt((4 * l * l - 1) / (l * l - m * m)) * (cosine * out[m, l - 1] - lower)
    return out


def _sine_moments(n: NDArray[np.int64]) -> Complex:
    """Return the integrals of exp(i n theta) sin(theta) over [0, pi]."""
    odd = n % 2 != 0
    even = 2 / (1 - np.where(odd, 0, n) ** 2.0)
    return np.where(odd, np.where(np.abs(n) == 1, 0.5j * pi * n, 0), even)

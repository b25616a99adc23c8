"""Real spherical harmonics of edge vectors."""

from __future__ import annotations

from math import factorial, prod, sqrt

import torch
from torch import Tensor


def spherical_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """Return the component-normalised real spherical harmonics of the directions of `vectors`.

    Each degree has the squared norm 2l+1. Order and axes as in `mlip.so3.wigner3j`: polar axis y,
    m = -l..l, l = 1 equal to sqrt(3) (x, y, z)/r.

    Args:
        vectors: [E, 3], none of length zero.
        lmax: largest degree.

    Returns:
        [E, (lmax+1)^2]; differentiable any number of times.
    """
    x, y, z = torch.nn.functional.normalize(vectors, dim=-1, eps=0.0).unbind(-1)
    one = torch.ones_like(y)
    cosines, sines = [one], [torch.zeros_like(y)]  # sin^m(b) cos(m a), sin^m(b) sin(m a)
    for m in range(lmax):
        cosines.append(z * cosines[m] - x * sines[m])
        sines.append(z * sines[m] + x * cosines[m])
    columns: list[Tensor] = [one] * (lmax + 1) ** 2
    for m in range(lmax + 1):
        legendre = _legendre(y, one, m, lmax)
        for l in range(m, lmax + 1):
            scale = sqrt((2 * l + 1) * (2 if m else 1) * factorial(l - m) / factorial(l + m))
            columns[l * l + l + m] = scale * legendre[l - m] * cosines[m]
            if m:
                columns[l * l + l - m] = scale * legendre[l - m] * sines[m]
    return torch.stack(columns, dim=-1)


def _legendre(y: Tensor, one: Tensor, m: int, lmax: int) -> list[Tensor]:
    """Return P_l^m(y) / sin^m for l = m..lmax, without the Condon-Shortley sign."""
    values = [float(prod(range(1, 2 * m, 2))) * one]
    if m < lmax:
        values.append((2 * m + 1) * y * values[0])
    for l in range(m + 2, lmax + 1):
        values.append(((2 * l - 1) * y * values[-1] - (l + m - 1) * values[-2]) / (l - m))
    return values

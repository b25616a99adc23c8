"""The Gaunt product by Fourier series in both angles, as published: an oracle, not the fast way.

Coefficients become Fourier coefficients on the doubled sphere, which are convolved by FFT and projected back. The
transforms take O(L^3) steps since an order m couples to v = m and v = -m only, the convolution O(L^2 log L).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops.signals import degree, degree_out, degrees
from mlip.ops.sphere_tables import fourier_tables, harmonic_tables


def fourier_product(x: Tensor, y: Tensor, l_out: int | None = None) -> Tensor:
    """Return the coefficients of the product of two functions on the sphere, by the published Fourier algorithm.

    Luo et al., ICLR 2024 (arXiv 2401.10216), section 3. Exact up to rounding: nothing aliases.

    Args:
        x: [..., (l1+1)^2], coefficients of orthonormal harmonics.
        y: [..., (l2+1)^2], the same leading sizes, precision and device as `x`.
        l_out: largest degree of the result, 0 to l1+l2; by default l1+l2.

    Returns:
        [..., (l_out+1)^2]; differentiable by `x` and `y` any number of times.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree that is out of range.
    """
    l1, l2, l3 = degrees(x, y, l_out)
    return _to_harmonics(_convolve(_to_fourier(x, l1), _to_fourier(y, l2)), l1 + l2, l3)


def fourier_power(x: Tensor, nu: int, l_out: int | None = None) -> Tensor:
    """Return the coefficients of the power f^nu of a function on the sphere, by the published Fourier algorithm.

    Divide and conquer on the Fourier coefficients: f^2 = f f, f^3 = f f^2, f^4 = f^2 f^2, ..., without truncation in
    between and with one transform back (Luo et al., ICLR 2024, arXiv 2401.10216, section 3, on
    many-body interactions).

    Args:
        x: [..., (l+1)^2], coefficients of orthonormal harmonics.
        nu: the exponent, at least 1.
        l_out: largest degree of the result, 0 to nu*l; by default nu*l.

    Returns:
        [..., (l_out+1)^2]; differentiable by `x` any number of times.

    Raises:
        OptionError: a shape, precision, exponent or degree that is not allowed.
    """
    l = degree(x)
    if nu < 1:
        raise OptionError(f"nu={nu} is not allowed; the exponent must be 1 or more")
    l3 = degree_out(l_out, nu * l)
    return _to_harmonics(_power({1: _to_fourier(x, l)}, nu), nu * l, l3)


def _power(known: dict[int, Tensor], nu: int) -> Tensor:
    if nu not in known:
        half = nu // 2
        known[nu] = _convolve(_power(known, half), _power(known, nu - half))
    return known[nu]


def _convolve(f: Tensor, g: Tensor) -> Tensor:
    """Return the full convolution of two sets of Fourier coefficients, [..., N, N] with N = N1 + N2 - 1."""
    n = f.shape[-1] + g.shape[-1] - 1
    if f.numel() == 0:  # FFTs refuse it
        return (f.sum((-2, -1)) * g.sum((-2, -1)))[..., None, None].expand(*f.shape[:-2], n, n)
    values: Tensor = torch.fft.fft2(f, (n, n)) * torch.fft.fft2(g, (n, n))
    convolved: Tensor = torch.fft.ifft2(values)
    return convolved


def _to_fourier(x: Tensor, l: int) -> Tensor:
    """Return the complex Fourier coefficients F[..., v, u], |u| and |v| up to `l`."""
    components, real, imaginary = fourier_tables(l, x)
    by_order = x[..., components]
    return torch.complex(*(torch.einsum("...vn,vnu->...vu", by_order, table) for table in (real, imaginary)))


def _to_harmonics(f: Tensor, l_in: int, l_out: int) -> Tensor:
    """Return the coefficients [..., (l_out+1)^2] of the harmonics in F[..., v, u]."""
    first, second, real, imaginary = harmonic_tables(l_in, l_out, f.real)
    orders = f[..., l_in - l_out : l_in + l_out + 1, :]
    parts = (torch.einsum("...vu,vun->...vn", orders.real, real)
             - torch.einsum("...vu,vun->...vn", orders.imag, imaginary)).flatten(-2)
    return parts.index_select(-1, first) + parts.index_select(-1, second)

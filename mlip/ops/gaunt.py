"""The Gaunt tensor product: functions on the sphere multiplied, given and returned by their coefficients.

One mathematical object, three algorithms behind one signature: a table of coefficients (`"sparse"`), values on the
points of a quadrature (`"grid"`), and the published form, convolution of two-dimensional Fourier series (`"fourier"`).
"""

from __future__ import annotations

from functools import cache
from math import isqrt, prod
from typing import Literal

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops.backend import Backend, check_backend, use_compiled
from mlip.ops.fourier_product import fourier_power, fourier_product
from mlip.ops.signals import degree, degree_out
from mlip.ops.sparse_product import sparse_product
from mlip.ops.sphere_powers import sphere_powers
from mlip.ops.sphere_product import sphere_product
from mlip.ops.sphere_tables import (
    Form,
    component_degrees,
    degree_norms,
    octant_matrices,
    octant_powers,
    sphere_matrices,
)
from mlip.ops.tables import constant
from mlip.so3.degrees import size
from mlip.so3.gaunt import gaunt_entries
from mlip.so3.harmonics import NORMALIZATIONS
from mlip.so3.quadrature import sphere_quadrature

Method = Literal["auto", "sparse", "grid", "fourier"]
METHODS: tuple[Method, ...] = ("auto", "sparse", "grid", "fourier")
ENTRIES_PER_POINT = 28  # of the table, that cost the compiled kernels as much as a point of the grid
Weights = tuple[Tensor | None, Tensor | None, Tensor | None]


def gaunt_product(x: Tensor, y: Tensor, l_out: int | None = None, normalization: str = "integral",
                  method: Method = "auto", weights: Weights | None = None, backend: Backend = "auto") -> Tensor:
    """Return the coefficients of the product of two functions on the sphere.

    z_l3m3 = sum over l1 m1 l2 m2 of x_l1m1 y_l2m2 times the integral of Y_l1m1 Y_l2m2 Y_l3m3 (Luo et al., ICLR 2024,
    section 3; with `weights` its parametrised form). All methods are exact for every `l_out`, and a product that is
    cut at `l_out` equals the first components of one that is not.

    Args:
        x: [..., (l1+1)^2], components in the order of `mlip.so3.wigner3j`. The view `t.mT` of a contiguous tensor
            [..., (l1+1)^2, C] is the layout that costs least.
        y: [..., (l2+1)^2]; leading sizes as those of `x`, or broadcast with them.
        l_out: largest degree of the result; by default l1 + l2.
        normalization: of the harmonics that `x`, `y` and the result are coefficients of, one of
            `mlip.so3.harmonics.NORMALIZATIONS`.
        method: one of `METHODS`; `"auto"` takes the fastest for these degrees.
        weights: factors of each degree of `x` [..., l1+1], of `y` [..., l2+1] and of the result [..., l_out+1],
            broadcast with their leading sizes; None for 1.
        backend: one of `mlip.ops.backend.BACKENDS`; `"fourier"` always runs in plain torch.

    Returns:
        [..., (l_out+1)^2]; differentiable by `x`, `y` and `weights` any number of times.

    Raises:
        OptionError: unknown options, sizes that do not fit, precisions that differ.
    """
    l1, l2 = degree(x, "x"), degree(y, "y")
    l3 = degree_out(l_out, l1 + l2)
    _check(normalization, method, backend)
    if x.dtype != y.dtype or x.device != y.device:
        raise OptionError(f"x is {x.dtype} on {x.device} and y {y.dtype} on {y.device}; they must be alike")
    w1, w2, w3 = weights or (None, None, None)
    x, y = _broadcast(scaled(x, w1), scaled(y, w2))
    form = Form("gaunt", l1, l2, l3, normalization)
    if method == "auto":
        method = _fastest(l1, l2, l3, use_compiled(backend, x, y))
    if method == "fourier":
        n1, n2, n3 = (degree_norms(l, normalization, x) for l in (l1, l2, l3))
        return scaled(fourier_product(x * n1, y * n2, l3) / n3, w3)
    columns_x, columns_y, lead = _columns(x, y)
    return scaled(_rows(_multiply(columns_x, columns_y, form, method, backend), lead), w3)


def gaunt_power(x: Tensor, nu: int, l_out: int | None = None, normalization: str = "integral",
                method: Method = "auto", backend: Backend = "auto") -> Tensor:
    """Return the coefficients of the `nu`-th power of a function on the sphere (Luo et al., ICLR 2024, section 3).

    Args:
        x: [..., (l+1)^2], as in `gaunt_product`.
        nu: at least 1.
        l_out: largest degree of the result; by default nu * l.
        normalization: as in `gaunt_product`.
        method: as in `gaunt_product`; `"sparse"` multiplies step by step, up to the degrees that still matter.
        backend: as in `gaunt_product`.

    Returns:
        [..., (l_out+1)^2]; differentiable any number of times.

    Raises:
        OptionError: unknown options, sizes that do not fit, a power below 1.
    """
    l = degree(x, "x")
    if type(nu) is not int or not 1 <= nu < 64:
        raise OptionError(f"the power {nu!r} was asked for; it must be a whole number from 1 to 63")
    l3 = degree_out(l_out, nu * l)
    _check(normalization, method, backend)
    if nu == 1:
        return x[..., : size(l3)].clone()
    if nu == 2 and method == "auto":
        method = _fastest(l, l, l3, use_compiled(backend, x))
    if method == "fourier":
        n, n3 = degree_norms(l, normalization, x), degree_norms(l3, normalization, x)
        return fourier_power(x * n, nu, l3) / n3
    if method == "sparse":
        out = x
        for k in range(2, nu + 1):
            out = gaunt_product(out, x, min(k * l, l3 + (nu - k) * l), normalization, "sparse", backend=backend)
        return out
    columns, _, lead = _columns(x, x)
    to, back, *reflections = octant_powers(l, l3, nu, normalization, x)
    powers = sphere_powers(columns, to, back, (reflections[0], reflections[1]), nu, nu, backend)
    return _rows(powers.squeeze(1), lead)


def scaled(x: Tensor, weights: Tensor | None) -> Tensor:
    """Return components [..., (l+1)^2] times a factor for each degree, [..., l+1]."""
    if weights is None:
        return x
    if weights.ndim == 0 or size(weights.shape[-1] - 1) != x.shape[-1]:
        raise OptionError(f"weights {tuple(weights.shape)} do not fit components {tuple(x.shape)}: one is needed for "
                          f"each of the {isqrt(x.shape[-1])} degrees")
    return x * weights.index_select(-1, component_degrees(isqrt(x.shape[-1]) - 1, x))


def _check(normalization: str, method: str, backend: str) -> None:
    if normalization not in NORMALIZATIONS:
        raise OptionError(f"normalization {normalization!r} is unknown; allowed: {', '.join(NORMALIZATIONS)}")
    if method not in METHODS:
        raise OptionError(f"method {method!r} is unknown; allowed: {', '.join(METHODS)}")
    check_backend(backend)


def _multiply(x: Tensor, y: Tensor, form: Form, method: Method, backend: Backend) -> Tensor:
    """Return [N, M3, C] for [N, M1, C] and [N, M2, C]."""
    if method == "sparse":
        return sparse_product(x, y, form, backend)
    if not use_compiled(backend, x, y):
        return sphere_product(x, y, *sphere_matrices(form, x), backend=backend)
    to_x, to_y, back, parity, zero = octant_matrices(form, x)
    return sphere_product(x, y, to_x, to_y, back, (parity, zero), backend)


@constant
def _fastest(l1: int, l2: int, l3: int, compiled: bool) -> Method:
    """Return the method by the work it takes; plain torch forms all pairs of components for a table."""
    entries, points = _work(l1, l2, l3)
    return "sparse" if entries <= (ENTRIES_PER_POINT * points if compiled else 20) else "grid"


@cache
def _work(l1: int, l2: int, l3: int) -> tuple[int, int]:
    """Return the number of coefficients and of points."""
    return len(gaunt_entries(l1, l2, l3)[1]), len(sphere_quadrature(l1 + l2 + l3)[1])


def _broadcast(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with the same leading sizes."""
    if x.shape[:-1] == y.shape[:-1]:
        return x, y
    try:
        lead = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise OptionError(f"leading sizes of x {tuple(x.shape)} and y {tuple(y.shape)} do not fit") from None
    return x.expand(*lead, x.shape[-1]), y.expand(*lead, y.shape[-1])


def _columns(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return both as [N, M, C], without a copy where channels lie side by side, and the leading sizes.

    C is the last of the leading sizes if channels lie side by side, else 1.
    """
    lead = x.shape[:-1]
    by_channel = any(len(lead) > 0 and t.stride(-2) == 1 and t.shape[-1] > 1 for t in (x, y))
    samples, channels = (prod(lead[:-1]), lead[-1]) if by_channel else (prod(lead), 1)
    flat = [(t.mT if by_channel else t).reshape(samples, t.shape[-1], channels) for t in (x, y)]
    return flat[0], flat[1], tuple(lead)


def _rows(out: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Return [..., M] for [N, M, C] as `_columns` made them."""
    if out.shape[2] == 1 and prod(lead) == out.shape[0]:
        return out.reshape(*lead, out.shape[1])
    return out.view(*lead[:-1], *out.shape[1:]).mT

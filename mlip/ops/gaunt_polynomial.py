"""The many-body product of MACE-Gaunt: polynomials of each atom's signal on the sphere, weighted by element."""

from __future__ import annotations

from functools import cache
from math import comb
from typing import Literal

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops.backend import Backend
from mlip.ops.signals import degree
from mlip.ops.sphere_powers import sphere_powers
from mlip.ops.sphere_tables import component_degrees, octant_powers
from mlip.ops.symmetric_contraction import symmetric_contraction
from mlip.ops.tables import constant
from mlip.so3.degrees import size
from mlip.so3.harmonics import NORMALIZATIONS
from mlip.so3.symmetric_power import gaunt_basis

Method = Literal["auto", "sparse", "grid"]
METHODS: tuple[Method, ...] = ("auto", "sparse", "grid")
MONOMIALS, ENTRIES = 3000, 1000  # of one power, of the table: above, the grid is faster


def gaunt_polynomial(features: Tensor, weights: Tensor, elements: Tensor, normalization: str = "integral",
                     method: Method = "auto", backend: Backend = "auto") -> Tensor:
    """Return B[n, (l m), c] = sum over nu of W[z_n, nu, l, c] (f_nc^nu)_lm.

    f_nc is the function sum over l, m of A[n, (l m), c] Y_lm on the sphere. This is one polynomial for each order and
    degree where MACE has all (Luo et al., ICLR 2024, section 3). Either their coefficients are multiplied out
    (`"sparse"`), or powers are taken point by point on an exact quadrature (`"grid"`).

    Args:
        features: A, [N, (lmax+1)^2, C].
        weights: W, [elements, orders, L+1, C], for nu = 1 to `orders`.
        elements: z, [N] int64, from 0 to elements - 1.
        normalization: of the harmonics, one of `mlip.so3.harmonics.NORMALIZATIONS`.
        method: one of `METHODS`; `"auto"` takes the fastest for these degrees, `"sparse"` goes up to nu = 4.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [N, (L+1)^2, C]; differentiable any number of times.

    Raises:
        OptionError: unknown options, sizes or precisions that do not fit, more than 4 orders for `"sparse"`.
    """
    lmax = degree(features.mT, "features")
    if weights.ndim != 4 or 0 in weights.shape[1:3] or weights.shape[3] != features.shape[2] or (
            weights.dtype != features.dtype):
        raise OptionError(f"weights {tuple(weights.shape)} {weights.dtype} do not fit features {tuple(features.shape)} "
                          f"{features.dtype}; they must be [elements, orders, L+1, {features.shape[2]}]")
    lmax_out, orders = weights.shape[2] - 1, weights.shape[1]
    if method not in METHODS or normalization not in NORMALIZATIONS or (method == "sparse" and orders > 4):
        raise OptionError(f"method {method!r} and normalization {normalization!r} for {orders} orders; allowed are "
                          f"{', '.join(METHODS)} (sparse up to 4 orders) and {', '.join(NORMALIZATIONS)}")
    if method == "sparse" or (method == "auto" and _few(lmax, orders, lmax_out)):
        lists = [[weights[:, nu, l, None] for nu in range(orders)] for l in range(lmax_out + 1)]
        return symmetric_contraction(features, lists, elements, lmax, backend, normalization)
    by_atom = by_component(weights[elements])
    out = by_atom[:, 0] * head(features, lmax_out)
    if orders == 1:
        return out
    to, back, parity, zero = octant_powers(lmax, lmax_out, orders, normalization, features)
    powers = sphere_powers(features, to, back, (parity, zero), 2, orders, backend)
    return out + (by_atom[:, 1:] * powers).sum(dim=1)


@constant
def _few(lmax: int, orders: int, lmax_out: int) -> bool:
    """Return whether the polynomials have so few coefficients that multiplying them out is faster."""
    few = orders <= 4 and comb(size(lmax) + orders - 1, orders) <= MONOMIALS
    return few and _coefficients(lmax, orders, lmax_out) <= ENTRIES


@cache
def _coefficients(lmax: int, orders: int, lmax_out: int) -> int:
    bases = (gaunt_basis(lmax, nu, l, "integral") for nu in range(1, orders + 1) for l in range(lmax_out + 1))
    return sum(int((basis.coefficients != 0).sum()) for basis in bases)


def by_component(weights: Tensor) -> Tensor:
    """Return [..., (L+1)^2, C] for one number of each degree, [..., L+1, C]."""
    return weights.index_select(-2, component_degrees(weights.shape[-2] - 1, weights))


def head(features: Tensor, lmax: int) -> Tensor:
    """Return [N, (lmax+1)^2, C]: the first degrees, with zeros where there are not as many."""
    missing = size(lmax) - features.shape[1]
    return torch.nn.functional.pad(features, (0, 0, 0, missing)) if missing > 0 else features[:, : size(lmax)]

"""Products that reach what the product of functions does not: degrees whose sum is odd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops.backend import Backend
from mlip.ops.signals import degrees
from mlip.ops.sparse_product import sparse_product
from mlip.ops.sphere_tables import Form, vector_basis_table

Shifts = tuple[int, int, int]


def poisson_bracket(x: Tensor, y: Tensor, l_out: int | None = None, backend: Backend = "auto") -> Tensor:
    """Return the coefficients of r . (grad f x grad g) for two functions f and g on the unit sphere.

    Only degrees with l1 + l2 + l3 odd couple; each such triple does (Bochkarev et al., arXiv 2605.15073).

    Args:
        x: [..., (l1+1)^2], coefficients of orthonormal harmonics.
        y: [..., (l2+1)^2], the same leading sizes, precision and device as `x`.
        l_out: largest degree of the result, 0 to l1+l2; by default l1+l2, of which the last is zero.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [..., (l_out+1)^2]; differentiable by `x` and `y` any number of times.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree that is out of range.
    """
    return _pointwise(x, y, Form("poisson", *degrees(x, y, l_out)), backend)


def vector_cross(u: Tensor, v: Tensor, l_out: int | None = None, backend: Backend = "auto") -> Tensor:
    """Return the coefficients of the cross product of two fields of vectors on the sphere, point by point.

    A step of the vector signal tensor product (Xie et al., arXiv 2506.13523 and 2602.21466).

    Args:
        u: [..., 3, (l1+1)^2], coefficients of orthonormal harmonics of the components x, y, z.
        v: [..., 3, (l2+1)^2], the same leading sizes, precision and device as `u`.
        l_out: largest degree of the result, 0 to l1+l2; by default l1+l2.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [..., 3, (l_out+1)^2]; differentiable by `u` and `v` any number of times.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree that is out of range.
    """
    form = Form("gaunt", *degrees(u, v, l_out, (3,), ("u", "v")))
    first, second = _turned(u, (1, 2, 0, 2, 0, 1)), _turned(v, (2, 0, 1, 1, 2, 0))
    both = _pointwise(first, second, form, backend)
    return both[..., :3, :] - both[..., 3:, :]


def vector_dot(u: Tensor, v: Tensor, l_out: int | None = None, backend: Backend = "auto") -> Tensor:
    """Return the coefficients of the dot product of two fields of vectors on the sphere, point by point.

    A step of the vector signal tensor product (Xie et al., arXiv 2506.13523 and 2602.21466).

    Args:
        u: [..., 3, (l1+1)^2], coefficients of orthonormal harmonics of the components x, y, z.
        v: [..., 3, (l2+1)^2], the same leading sizes, precision and device as `u`.
        l_out: largest degree of the result, 0 to l1+l2; by default l1+l2.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [..., (l_out+1)^2]; differentiable by `u` and `v` any number of times.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree that is out of range.
    """
    form = Form("gaunt", *degrees(u, v, l_out, (3,), ("u", "v")))
    return _pointwise(u, v, form, backend).sum(-2)


def vector_signal_product(x: Tensor, y: Tensor, l_out: int | None = None, shifts: Shifts = (0, 0, -1),
                          backend: Backend = "auto") -> Tensor:
    """Return the vector signal tensor product: fields of two sets of components, crossed and projected back.

    The components of degree j become the field of the vector harmonics with l = j + shift, whose point-by-point cross
    product is projected on those of the result (Xie et al., arXiv 2506.13523 and 2602.21466). Degrees j1, j2, j3 are
    multiplied by w3j(j1, j2, j3) times, up to the sign, sqrt(6 / 4 pi) sqrt(prod (2j+1)) sqrt(prod (2l+1))
    |3j(l1 l2 l3; 0 0 0)| |9j(l1 1 j1, l2 1 j2, l3 1 j3)|, the generalised Gaunt formula of that paper.

    What is reached: only triples with l1 + l2 + l3 even, so odd j1 + j2 + j3 where the shifts have an odd sum. The
    default reaches every odd triple, with tangential fields (l = j) of both factors, whose cross product is radial: the
    result is the Poisson bracket up to one factor for each degree of x, y and the result. Every choice with two zeros
    and one 1 or -1 reaches every odd triple; (-1, -1, 1), for one, does not. Shifts with an even sum, (0, 1, -1) for
    example, reach even triples, but not all of them.

    Args:
        x: [..., (l1+1)^2], components of degrees j = 0..l1.
        y: [..., (l2+1)^2], the same leading sizes, precision and device as `x`.
        l_out: largest degree of the result, 0 to l1+l2; by default l1+l2.
        shifts: l - j of x, y and the result, each -1, 0 or 1. With -1 and 0, j = 0 has no field: it is not read from x
            and y, and is zero in the result.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [..., (l_out+1)^2]; differentiable by `x` and `y` any number of times.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree or shift that is out of range.
    """
    j1, j2, j3 = degrees(x, y, l_out)
    if len(shifts) != 3 or any(s not in (-1, 0, 1) for s in shifts):
        raise OptionError(f"shifts={shifts!r} are not allowed; they must be three numbers, each -1, 0 or 1")
    first, second, last = (vector_basis_table(j, s, x) for j, s in zip((j1, j2, j3), shifts, strict=True))
    u, v = (torch.einsum("...m,mek->...ek", t, basis) for t, basis in ((x, first), (y, second)))
    l3 = min(max(j3 + shifts[2], 0), max(j1 + shifts[0], 0) + max(j2 + shifts[1], 0))
    field = vector_cross(u, v, l3, backend)
    return torch.einsum("...ek,mek->...m", field, last[..., : field.shape[-1]])


def _turned(u: Tensor, order: Sequence[int]) -> Tensor:
    return torch.stack([u[..., k, :] for k in order], dim=-2)


def _pointwise(x: Tensor, y: Tensor, form: Form, backend: Backend) -> Tensor:
    """Multiply signals that keep their components on the last axis; the axis before it serves as channels."""
    if x.ndim == 1:
        return sparse_product(x[:, None], y[:, None], form, backend)[:, 0]
    return sparse_product(x.mT, y.mT, form, backend).mT

"""The product on the sphere: two signals multiplied point by point and projected back."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled


def sphere_product(x: Tensor, y: Tensor, to_x: Tensor, to_y: Tensor, back: Tensor,
                   reflections: tuple[Tensor, Tensor] | None = None, backend: Backend = "auto") -> Tensor:
    """Return the coefficients of the product of two signals that are given by their coefficients.

    out[n, k, c] = sum_p back[p, k] (sum_i to_x[p, i] x[n, i, c]) (sum_j to_y[p, j] y[n, j, c]). With harmonics Y of
    the points in `to_x` and `to_y`, and Y times the weights of a quadrature in `back`, this is the Gaunt tensor
    product (Luo et al., ICLR 2024, section 3) where the quadrature is exact for the degree of all three together.

    Args:
        x: [..., M1, C].
        y: [..., M2, C], the same leading sizes and channels as `x`.
        to_x: [P, M1], values of the basis of `x` on P points; a constant.
        to_y: [P, M2], those of the basis of `y`; a constant.
        back: [P, M3], projects values on the points on the basis of the result; a constant.
        reflections: if given, the matrices are those of representatives of the points under reflections of the three
            axes. The classes [at least max(M1, M2, M3)] int64 say which reflections change the sign of each component
            (bits 0 to 2), and [P] int64 which coordinates of each representative are 0: a point is reflected in the
            others. An eighth of the multiplications; see `mlip.ops.sphere_tables.octant_matrices`.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [..., M3, C]; differentiable by `x` and `y` any number of times.

    Raises:
        OptionError: sizes or precisions that do not fit each other, or a matrix that requires a gradient.
    """
    _check(x, y, to_x, to_y, back)
    if use_compiled(backend, x, y, to_x, to_y, back):
        parity, zero = reflections or _no_reflections(to_x, to_y, back)
        samples = prod(x.shape[:-2])
        flat = torch.ops.mlip.sphere_product(x.reshape(samples, *x.shape[-2:]), y.reshape(samples, *y.shape[-2:]),
                                             to_x, to_y, back, parity, zero)
        return flat.view(*x.shape[:-2], *flat.shape[-2:])  # type: ignore[no-any-return]
    if reflections is not None:
        to_x, to_y, back = (unfold(matrix, *reflections) for matrix in (to_x, to_y, back))
    return back.T @ ((to_x @ x) * (to_y @ y))


def unfold(matrix: Tensor, parity: Tensor, zero: Tensor) -> Tensor:
    """Return the matrix [P, M] of all images of the representatives, given theirs [R, M] and the reflections."""
    images = torch.arange(8, device=matrix.device)
    chosen, rows = torch.nonzero((images[:, None] & zero) == 0, as_tuple=True)
    odd = images[chosen, None] & parity[: matrix.shape[1]]
    signs = 1 - 2 * ((odd & 1) ^ (odd >> 1 & 1) ^ (odd >> 2))
    return matrix[rows] * signs.to(matrix)


def _no_reflections(to_x: Tensor, to_y: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Return reflections that leave every point alone."""
    components = max(to_x.shape[1], to_y.shape[1], back.shape[1])
    return (torch.zeros(components, dtype=torch.int64, device=to_x.device),
            torch.full((to_x.shape[0],), 7, dtype=torch.int64, device=to_x.device))


def _check(x: Tensor, y: Tensor, to_x: Tensor, to_y: Tensor, back: Tensor) -> None:
    matrices = {"to_x": to_x, "to_y": to_y, "back": back}
    for name, matrix in matrices.items():
        if matrix.requires_grad:
            raise OptionError(f"{name} requires a gradient, but the matrices of sphere_product are constants; "
                              f"pass {name}.detach()")
        if matrix.ndim != 2 or matrix.shape[0] != to_x.shape[0]:
            raise OptionError(f"{name} has the shape {tuple(matrix.shape)}; the matrices of sphere_product must be "
                              f"[points, components] with one number of points")
    if any(t.dtype != x.dtype for t in (y, *matrices.values())):
        raise OptionError(f"sphere_product was given {', '.join(str(t.dtype) for t in (x, y, *matrices.values()))}; "
                          "all five tensors must have one precision")
    if (x.ndim < 2 or y.ndim < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]
            or x.shape[-2] != to_x.shape[1] or y.shape[-2] != to_y.shape[1]):
        raise OptionError(f"x {tuple(x.shape)} and y {tuple(y.shape)} do not fit each other or the matrices to_x "
                          f"{tuple(to_x.shape)} and to_y {tuple(to_y.shape)}; they must be [..., M1, C] and "
                          "[..., M2, C] with to_x [P, M1] and to_y [P, M2]")


# The operator is the trilinear form T(x, y; g) by g. By x or y it is the operator again, with the matrices exchanged.

def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::sphere_product")
    def _(x: Tensor, y: Tensor, to_x: Tensor, to_y: Tensor, back: Tensor, *reflections: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], back.shape[1], x.shape[2])

    def keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, to_x, to_y, back, *reflections = ctx.saved_tensors
        product = torch.ops.mlip.sphere_product
        dx = product(g, y, back, to_y, to_x, *reflections) if ctx.needs_input_grad[0] else None
        dy = product(x, g, to_x, back, to_y, *reflections) if ctx.needs_input_grad[1] else None
        return dx, dy, *[None] * 5

    register: Callable[..., None] = torch.library.register_autograd
    register("mlip::sphere_product", backward, setup_context=keep)


if LIBRARY.path is not None:
    _register()

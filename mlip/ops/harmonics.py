"""Real spherical harmonics of edge vectors."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, isqrt, prod, sqrt
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.so3.degrees import size


def spherical_harmonics(vectors: Tensor, lmax: int, backend: Backend = "auto") -> Tensor:
    """Return the component-normalised real spherical harmonics of the directions of `vectors`.

    Each degree has the squared norm 2l+1. Order and axes as in `mlip.so3.wigner3j`: polar axis y,
    m = -l..l, l = 1 equal to sqrt(3) (x, y, z)/r.

    Args:
        vectors: [E, 3], none of length zero.
        lmax: largest degree.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [E, (lmax+1)^2]; differentiable any number of times.
    """
    if use_compiled(backend, vectors):
        return torch.ops.mlip.spherical_harmonics(vectors, lmax)  # type: ignore[no-any-return]
    return _reference(vectors, lmax)


def _reference(vectors: Tensor, lmax: int) -> Tensor:
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


# The operators are Y(r), its gradient d(g . Y)/dr (_backward), and the derivatives of both along tangents v: v . dY/dr
# (_jvp) and the second derivative of g . Y times v (_hvp). They are the derivatives of each other, up to those of
# _hvp: third derivatives, which plain torch makes.

def _third(r: Tensor, g: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives by r and g of u . d^2(g . Y)/dr^2 . v, differentiable themselves where a graph is kept."""
    if g.shape[1] == 1:  # the harmonic of degree 0 is constant
        return torch.zeros_like(r), torch.zeros_like(g)
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        r, g = (t if t.requires_grad else t.detach().requires_grad_() for t in (r, g))
        r, g = r.view_as(r), g.view_as(g)  # of their own, so that nothing reaches r or g another way
        (first,) = torch.autograd.grad((_reference(r, isqrt(g.shape[1]) - 1) * g).sum(), r, create_graph=True)
        (second,) = torch.autograd.grad((first * v).sum(), r, create_graph=True)
        by_r, by_g = torch.autograd.grad((second * u).sum(), (r, g), create_graph=keep)
    return by_r, by_g


def _register() -> None:
    ops = torch.ops.mlip
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::spherical_harmonics")
    def _(vectors: Tensor, lmax: int) -> Tensor:
        return vectors.new_empty(vectors.shape[0], size(lmax))

    @fake("mlip::spherical_harmonics_jvp")
    def _(vectors: Tensor, tangents: Tensor, lmax: int) -> Tensor:
        return vectors.new_empty(vectors.shape[0], size(lmax))

    @fake("mlip::spherical_harmonics_backward")
    def _(vectors: Tensor, g: Tensor) -> Tensor:
        return vectors.new_empty(vectors.shape)

    @fake("mlip::spherical_harmonics_hvp")
    def _(vectors: Tensor, g: Tensor, tangents: Tensor) -> Tensor:
        return vectors.new_empty(vectors.shape)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))

    def values_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (r,) = ctx.saved_tensors
        return ops.spherical_harmonics_backward(r, g), None

    def jvp_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        r, v = ctx.saved_tensors
        by_r, by_v, _ = ctx.needs_input_grad
        return (ops.spherical_harmonics_hvp(r, g, v) if by_r else None,
                ops.spherical_harmonics_backward(r, g) if by_v else None, None)

    def gradient_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        r, g = ctx.saved_tensors
        by_r, by_g = ctx.needs_input_grad
        return (ops.spherical_harmonics_hvp(r, g, v) if by_r else None,
                ops.spherical_harmonics_jvp(r, v, isqrt(g.shape[1]) - 1) if by_g else None)

    def hvp_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        r, g, v = ctx.saved_tensors
        by_r, by_g, by_v = ctx.needs_input_grad
        dr, dg = _third(r, g, v, u) if by_r or by_g else (None, None)
        return dr, dg, ops.spherical_harmonics_hvp(r, g, u) if by_v else None

    register: Callable[..., None] = torch.library.register_autograd
    register("mlip::spherical_harmonics", values_backward, setup_context=keep)
    register("mlip::spherical_harmonics_jvp", jvp_backward, setup_context=keep)
    register("mlip::spherical_harmonics_backward", gradient_backward, setup_context=keep)
    register("mlip::spherical_harmonics_hvp", hvp_backward, setup_context=keep)


if LIBRARY.path is not None:
    _register()

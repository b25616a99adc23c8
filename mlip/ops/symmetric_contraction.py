"""The symmetric contraction: equivariant polynomials of each atom's features, weighted by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.ops.factorisation import COMPLETE
from mlip.ops.tables import contraction_tables, polynomials


def symmetric_contraction(features: Tensor, weights: list[list[Tensor]], elements: Tensor, lmax: int,
                          backend: Backend = "auto", basis: str = COMPLETE) -> Tensor:
    """Return B[n, (l m), c] = sum over nu and k of W_nu,l[z_n, k, c] P_nu,l,k,m(A[n, :, c]).

    P are the polynomials of `mlip.so3.symmetric_power` (Batatia et al., NeurIPS 2022, eq. 10 and 11).

    Args:
        features: A, [N, (lmax+1)^2, C].
        weights: weights[l][nu-1] is W_nu,l, [elements, K, C], for nu up to 4.
        elements: z, [N] int64.
        lmax: largest degree of the features.
        backend: one of `mlip.ops.backend.BACKENDS`.
        basis: which polynomials, see `mlip.ops.factorisation.basis_of`.

    Returns:
        [N, (L+1)^2, C] with L = len(weights) - 1; differentiable any number of times.
    """
    if use_compiled(backend, features, *(weight for by_order in weights for weight in by_order)):
        joined = torch.cat([weight for by_order in weights for weight in by_order], dim=1)
        orders = tuple(len(by_order) for by_order in weights)
        return torch.ops.mlip.symmetric_contraction(  # type: ignore[no-any-return]
            features, joined, elements, len(weights) ** 2, *contraction_tables(lmax, orders, basis))
    return _reference(features, weights, elements, lmax, basis)


def _reference(features: Tensor, weights: list[list[Tensor]], elements: Tensor, lmax: int,
               basis: str) -> Tensor:
    x = features.transpose(0, 1).contiguous()  # component first: gathers and products run over whole rows
    out = []
    for l, by_order in enumerate(weights):
        total = x.new_zeros(2 * l + 1, x.shape[1], x.shape[2])
        for nu, weight in enumerate(by_order, start=1):
            indices, coefficients = polynomials(basis, lmax, nu, l, x)
            monomials = x.index_select(0, indices[0])
            for factor in range(1, nu):
                monomials = monomials * x.index_select(0, indices[factor])
            values = coefficients.flatten(1).T @ monomials.flatten(1)
            shaped = values.view(*coefficients.shape[1:], *x.shape[1:])
            total = total + torch.einsum("kmnc,nkc->mnc", shaped, weight[elements])
        out.append(total)
    return torch.cat(out).transpose(0, 1)


# Let F(x, w; g) = <g, value(x, w)>. symmetric_contraction is dF/dg, _backward is (dF/dx, dF/dw) (bits 1 and 2 of
# `which`), and _jvp and _backward_jvp are the derivatives of these two along (vx, vw), where an empty tensor is zero.

def _fake_value(x: Tensor, w: Tensor, elements: Tensor, components: int, *tables: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], components, x.shape[2])


def _fake_jvp(x: Tensor, w: Tensor, elements: Tensor, vx: Tensor, vw: Tensor, components: int,
              *tables: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], components, x.shape[2])


def _fake_backward(x: Tensor, w: Tensor, elements: Tensor, g: Tensor, which: int,
                   *tables: Tensor) -> tuple[Tensor, Tensor]:
    return (x.new_empty(x.shape if which & 1 else 0), w.new_empty(w.shape if which & 2 else 0))


def _fake_backward_jvp(x: Tensor, w: Tensor, elements: Tensor, g: Tensor, vx: Tensor, vw: Tensor, which: int,
                       *tables: Tensor) -> tuple[Tensor, Tensor]:
    return _fake_backward(x, w, elements, g, which)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)  # None instead of zeros, with which everything would be computed
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
    (ctx.integer,) = (x for x in inputs if not isinstance(x, Tensor))


def _chosen(gradients: tuple[Tensor, Tensor], which: int) -> tuple[Tensor | None, Tensor | None]:
    return (gradients[0] if which & 1 else None), (gradients[1] if which & 2 else None)


def _directions(like: Tensor, *tangents: Tensor | None) -> tuple[Tensor, ...]:
    """Return the tangents, empty ones in the place of those that are None."""
    return tuple(like.new_empty(0) if tangent is None else tangent for tangent in tangents)


def _value_backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
    x, w, elements, *tables = ctx.saved_tensors
    if g is None:
        return None, None, None, None, *[None] * len(tables)
    which = ctx.needs_input_grad[0] + 2 * ctx.needs_input_grad[1]
    dx, dw = _chosen(torch.ops.mlip.symmetric_contraction_backward(x, w, elements, g, which, *tables), which)
    return dx, dw, None, None, *[None] * len(tables)


def _backward_backward(ctx: Any, vx: Tensor | None, vw: Tensor | None) -> tuple[Tensor | None, ...]:
    x, w, elements, g, *tables = ctx.saved_tensors
    vx, vw = _directions(x, vx, vw)
    dx = dw = dg = None
    if ctx.needs_input_grad[3]:
        dg = torch.ops.mlip.symmetric_contraction_jvp(x, w, elements, vx, vw, g.shape[1], *tables)
    which = ctx.needs_input_grad[0] + 2 * ctx.needs_input_grad[1]
    if which:
        dx, dw = _chosen(torch.ops.mlip.symmetric_contraction_backward_jvp(x, w, elements, g, vx, vw, which, *tables),
                         which)
    return dx, dw, None, dg, None, *[None] * len(tables)


# Third derivatives, which no use of the models needs, are those of this plain form.

def _plain(x: Tensor, w: Tensor, elements: Tensor, components: int, tables: tuple[Tensor, ...]) -> Tensor:
    products, groups, leaves, terms, coefficients = tables
    pool = torch.cat([x, torch.ones_like(x[:, :1]), x[:, products[:, 0]] * x[:, products[:, 1]]], dim=1)
    lengths = torch.diff(groups[:, 2], prepend=groups.new_zeros(1))
    component, factor = groups[:, :2].repeat_interleave(lengths, dim=0, output_size=leaves.shape[0]).unbind(1)
    basis = w.new_zeros(leaves.shape[0], w.shape[1]).index_put((terms[:, 0], terms[:, 1]), coefficients.to(w.dtype))
    entries = (basis @ w)[elements] * pool[:, factor] * pool[:, leaves]
    return x.new_zeros(x.shape[0], components, x.shape[2]).index_add(1, component, entries)


def _slope(function: Callable[..., Tensor], point: tuple[Tensor, Tensor], direction: tuple[Tensor, Tensor]) -> Tensor:
    """Return the derivative of a number along a direction, where an empty tensor is zero."""
    gradients = torch.func.grad(function, argnums=(0, 1))(*point)
    return sum(((d * v).sum() for d, v in zip(gradients, direction, strict=True) if v.shape == d.shape),
               start=point[0].new_zeros(()))


def _jvp_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    x, w, elements, vx, vw, *tables = ctx.saved_tensors
    if u is None:
        return None, None, None, None, None, None, *[None] * len(tables)

    def slope(x: Tensor, w: Tensor, vx: Tensor, vw: Tensor, u: Tensor) -> Tensor:
        return _slope(lambda x, w: (u * _plain(x, w, elements, ctx.integer, tables)).sum(), (x, w), (vx, vw))

    dx, dw, dvx, dvw = torch.func.grad(slope, argnums=(0, 1, 2, 3))(x, w, vx, vw, u)
    return dx, dw, None, dvx, dvw, None, *[None] * len(tables)


def _backward_jvp_backward(ctx: Any, ux: Tensor | None, uw: Tensor | None) -> tuple[Tensor | None, ...]:
    x, w, elements, g, vx, vw, *tables = ctx.saved_tensors
    ux, uw = _directions(x, ux, uw)

    def slope(x: Tensor, w: Tensor, g: Tensor, vx: Tensor, vw: Tensor, ux: Tensor, uw: Tensor) -> Tensor:
        def form(x: Tensor, w: Tensor) -> Tensor:
            return (g * _plain(x, w, elements, g.shape[1], tables)).sum()

        return _slope(lambda x, w: _slope(form, (x, w), (ux, uw)), (x, w), (vx, vw))  # the second derivative commutes

    dx, dw, dg, dvx, dvw = torch.func.grad(slope, argnums=(0, 1, 2, 3, 4))(x, w, g, vx, vw, ux, uw)
    return dx, dw, None, dg, dvx, dvw, None, *[None] * len(tables)


def _register() -> None:
    fake: Callable[..., None] = torch.library.register_fake
    autograd: Callable[..., None] = torch.library.register_autograd
    for name, shapes, backward in (("", _fake_value, _value_backward), ("_jvp", _fake_jvp, _jvp_backward),
                                   ("_backward", _fake_backward, _backward_backward),
                                   ("_backward_jvp", _fake_backward_jvp, _backward_jvp_backward)):
        fake(f"mlip::symmetric_contraction{name}", shapes)
        autograd(f"mlip::symmetric_contraction{name}", backward, setup_context=_keep)


if LIBRARY.path is not None:
    _register()

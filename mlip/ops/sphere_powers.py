"""Powers on the sphere: a signal raised point by point and projected back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.ops.sphere_product import unfold


def sphere_powers(x: Tensor, to: Tensor, back: Tensor, reflections: tuple[Tensor, Tensor], first: int, last: int,
                  backend: Backend = "auto") -> Tensor:
    """Return the coefficients of the powers f, f^2, ... of a signal that is given by its coefficients.

    out[n, nu - first, k, c] = sum_p back[p, k] (sum_i to[p, i] x[n, i, c])^nu, where p runs over all images of the
    representatives.

    Args:
        x: [N, M1, C].
        to: [R, M1], values of the basis of `x` on representatives of points under reflections; a constant.
        back: [R, M3], projects values on the points on the basis of the result; a constant.
        reflections: as in `mlip.ops.sphere_product`.
        first: the least power, at least 1.
        last: the greatest.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [N, last - first + 1, M3, C]; differentiable by `x` any number of times.

    Raises:
        OptionError: powers that are none.
    """
    if not 1 <= first <= last < 64:
        raise OptionError(f"powers from {first} to {last} were asked for; they must ascend from 1 on, up to 63")
    if use_compiled(backend, x, to, back):
        return torch.ops.mlip.sphere_powers(x, to, back, *reflections, first, last)  # type: ignore[no-any-return]
    return _plain(x, to, back, reflections, first, last)


def _plain(x: Tensor, to: Tensor, back: Tensor, reflections: Sequence[Tensor], first: int, last: int) -> Tensor:
    parity, zero = reflections
    values, project = unfold(to, parity, zero) @ x, unfold(back, parity, zero).T
    powers = [values]
    for _ in range(last - 1):
        powers.append(powers[-1] * values)
    return torch.stack([project @ power for power in powers[first - 1 :]], dim=1)


# Let F(x; g) = <g, value(x)>. sphere_powers is dF/dg, _backward is dF/dx, and _jvp and _backward_jvp are the
# derivatives of these two along v. Third derivatives, which no use of the models needs, are those of the plain form.

Ops = torch.ops.mlip


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*(t for t in inputs if isinstance(t, Tensor)))
    ctx.powers = inputs[-2:]


def _nothing() -> list[None]:
    return [None] * 6


def _value_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, *rest = ctx.saved_tensors
    return Ops.sphere_powers_backward(x, g, *rest, *ctx.powers), *_nothing()


def _backward_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    x, g, *rest = ctx.saved_tensors
    dx = Ops.sphere_powers_backward_jvp(x, g, v, *rest, *ctx.powers) if ctx.needs_input_grad[0] else None
    dg = Ops.sphere_powers_jvp(x, v, *rest, *ctx.powers) if ctx.needs_input_grad[1] else None
    return dx, dg, *_nothing()


def _jvp_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, v, *rest = ctx.saved_tensors
    dx = Ops.sphere_powers_backward_jvp(x, g, v, *rest, *ctx.powers) if ctx.needs_input_grad[0] else None
    dv = Ops.sphere_powers_backward(x, g, *rest, *ctx.powers) if ctx.needs_input_grad[1] else None
    return dx, dv, *_nothing()


def _backward_jvp_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    x, g, v, to, back, *reflections = ctx.saved_tensors

    def form(x: Tensor, g: Tensor) -> Tensor:
        return (g * _plain(x, to, back, reflections, *ctx.powers)).sum()

    def slope(x: Tensor, g: Tensor, v: Tensor, u: Tensor) -> Tensor:
        def along(x: Tensor) -> Tensor:
            gradient: Tensor = torch.func.grad(form)(x, g)
            return (gradient * u).sum()

        gradient: Tensor = torch.func.grad(along)(x)
        return (gradient * v).sum()

    return *torch.func.grad(slope, argnums=(0, 1, 2))(x, g, v, u), *_nothing()


def _register() -> None:
    fake: Callable[..., None] = torch.library.register_fake
    autograd: Callable[..., None] = torch.library.register_autograd

    def powers(x: Tensor, *rest: Any) -> Tensor:
        return x.new_empty(x.shape[0], rest[-1] - rest[-2] + 1, rest[-5].shape[1], x.shape[2])

    def signal(x: Tensor, *rest: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    for name, shape, backward in (("", powers, _value_backward), ("_jvp", powers, _jvp_backward),
                                  ("_backward", signal, _backward_backward),
                                  ("_backward_jvp", signal, _backward_jvp_backward)):
        fake(f"mlip::sphere_powers{name}", shape)
        autograd(f"mlip::sphere_powers{name}", backward, setup_context=_keep)


if LIBRARY.path is not None:
    _register()

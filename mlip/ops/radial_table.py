"""Functions of one variable, tabulated as polynomials of degree five on intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled


def radial_table(t: Tensor, interval: Tensor, coefficients: Tensor, backend: Backend = "auto") -> Tensor:
    """Return sum over k of coefficients[interval, k] t^k.

    Args:
        t: [K], where in its interval each point lies, from 0 to 1; differentiable any number of times.
        interval: [K] int64.
        coefficients: [intervals, 6, columns]; those that require a gradient are left to plain torch.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [K, columns].
    """
    if use_compiled(backend, t, coefficients) and not coefficients.requires_grad:
        return torch.ops.mlip.radial_table(t, interval, coefficients)  # type: ignore[no-any-return]
    return _reference(t, interval, coefficients)


def _reference(t: Tensor, interval: Tensor, coefficients: Tensor) -> Tensor:
    rows, t = coefficients[interval], t.unsqueeze(1)
    value = rows[:, -1]
    for k in range(coefficients.shape[1] - 2, -1, -1):
        value = value * t + rows[:, k]
    return value


def _slope(coefficients: Tensor) -> Tensor:
    """Return the coefficients of the derivative, filled up with a zero."""
    powers = torch.arange(1, coefficients.shape[1], dtype=coefficients.dtype, device=coefficients.device)
    return torch.nn.functional.pad(coefficients[:, 1:] * powers[:, None], (0, 0, 0, 1))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    t, interval, coefficients = ctx.saved_tensors
    return torch.ops.mlip.radial_table_backward(t, interval, coefficients, g), None, None


def _differentiate_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    t, interval, coefficients, g = ctx.saved_tensors
    by_t, by_g = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    slope = _slope(coefficients)
    dt = v * torch.ops.mlip.radial_table_backward(t, interval, slope, g) if by_t else None
    dg = v.unsqueeze(1) * torch.ops.mlip.radial_table(t, interval, slope) if by_g else None
    return dt, None, None, dg


def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::radial_table")
    def _(t: Tensor, interval: Tensor, coefficients: Tensor) -> Tensor:
        return t.new_empty(t.shape[0], coefficients.shape[2])

    @fake("mlip::radial_table_backward")
    def _(t: Tensor, interval: Tensor, coefficients: Tensor, g: Tensor) -> Tensor:
        return torch.empty_like(t)

    register: Callable[..., None] = torch.library.register_autograd
    register("mlip::radial_table", _differentiate, setup_context=_save)
    register("mlip::radial_table_backward", _differentiate_backward, setup_context=_save)


if LIBRARY.path is not None:
    _register()

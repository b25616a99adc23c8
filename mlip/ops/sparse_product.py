"""The sparse product: two sets of components multiplied by a table of coefficients, channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.ops.sphere_tables import Form, product_matrix, product_table
from mlip.so3.degrees import size


def sparse_product(x: Tensor, y: Tensor, form: Form, backend: Backend = "auto") -> Tensor:
    """Return out[n, k, c] = sum over i and j of G[k, i, j] x[n, i, c] y[n, j, c].

    Args:
        x: [..., M1, C].
        y: [..., M2, C], the same leading sizes and channels as `x`.
        form: which coefficients G, up to which degrees; M1, M2 and M3 follow.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [..., M3, C]; differentiable by `x` and `y` any number of times.

    Raises:
        OptionError: sizes or precisions that do not fit each other.
    """
    _check(x, y, form)
    if use_compiled(backend, x, y):
        samples = prod(x.shape[:-2])
        flat = torch.ops.mlip.sparse_product(x.reshape(samples, *x.shape[-2:]), y.reshape(samples, *y.shape[-2:]),
                                             *product_table(form), size(form.l3), 0, 1)
        return flat.view(*x.shape[:-2], *flat.shape[-2:])  # type: ignore[no-any-return]
    return _reference(x, y, form)


def _check(x: Tensor, y: Tensor, form: Form) -> None:
    rows = size(form.l1), size(form.l2)
    if (x.ndim < 2 or y.ndim < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]
            or (x.shape[-2], y.shape[-2]) != rows or x.dtype != y.dtype):
        raise OptionError(f"x {tuple(x.shape)} {x.dtype} and y {tuple(y.shape)} {y.dtype} do not fit each other or the "
                          f"degrees {form.l1} and {form.l2}; they must be [..., {rows[0]}, C] and [..., {rows[1]}, C]")


def _reference(x: Tensor, y: Tensor, form: Form) -> Tensor:
    """Multiply the pairs of components that occur, then one matrix."""
    first, second, matrix = product_matrix(form, x)
    return matrix @ (x.index_select(-2, first) * y.index_select(-2, second))


# The operator is the trilinear form T(x, y; g) by g: columns `target` and `first` of the index say which of the three
# is the result and which the first factor. By x or y it is the operator again, with the columns exchanged.

def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    @fake("mlip::sparse_product")
    def _(x: Tensor, y: Tensor, index: Tensor, coefficient: Tensor, rows: int, target: int, first: int) -> Tensor:
        return x.new_empty(x.shape[0], rows, x.shape[2])

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.columns = inputs[5:]

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *table = ctx.saved_tensors
        target, first = ctx.columns
        product = torch.ops.mlip.sparse_product
        dx = product(g, y, *table, x.shape[1], first, target) if ctx.needs_input_grad[0] else None
        dy = product(x, g, *table, y.shape[1], 3 - target - first, first) if ctx.needs_input_grad[1] else None
        return dx, dy, *[None] * 5

    register: Callable[..., None] = torch.library.register_autograd
    register("mlip::sparse_product", backward, setup_context=keep)


if LIBRARY.path is not None:
    _register()

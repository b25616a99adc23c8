"""The sparse product: two sets of components multiplied by a table of coefficients, channel by channel."""

from __future__ import annotations

from torch import Tensor

from mlip.errors import OptionError
from mlip.ops.backend import Backend
from mlip.ops.tables import Form, product_matrix
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

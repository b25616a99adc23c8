"""The matrix product: components laid out as operators between spins, multiplied as matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.ops.signals import degrees
from mlip.ops.sphere_tables import operator_basis


def matrix_product(x: Tensor, y: Tensor, l_out: int | None = None) -> Tensor:
    """Return the matrix tensor product of two sets of components (Xie et al., arXiv 2506.13523).

    With t = ceil((l1+l2)/2), components become square matrices of (t+1)^2 rows; the block of degrees a and b is
    X[a i, b j] = sum_lm C[a i, b j, l m] x[l m] with the Clebsch-Gordan coefficients C = sqrt(2l+1) w3j(a, b, l) for
    every pair a, b <= t. Z = X Y is projected back: out[l m] = sum C[a i, b j, l m] Z[a i, b j]. In this normalisation
    C is orthonormal in l and m for each pair a, b. Parity is ignored: triples of odd sum, such as (1, 1, 1), couple
    like those of even sum, each with one fixed coefficient, which depends on t and on the signs of w3j.

    Args:
        x: [..., (l1+1)^2].
        y: [..., (l2+1)^2], the same leading sizes, precision and device as `x`.
        l_out: largest degree of the result, 0 to l1+l2; by default l1+l2.

    Returns:
        [..., (l_out+1)^2]; differentiable by `x` and `y` any number of times.

    Raises:
        OptionError: shapes or precisions that do not fit each other, a degree that is out of range.
    """
    l1, l2, l3 = degrees(x, y, l_out)
    basis = operator_basis((l1 + l2 + 1) // 2, max(l1, l2, l3), x)
    first, second = (torch.einsum("...m,ijm->...ij", t, basis[..., : t.shape[-1]]) for t in (x, y))
    return torch.einsum("...ij,ijm->...m", first @ second, basis[..., : (l3 + 1) ** 2])

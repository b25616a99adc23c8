"""The symmetric contraction: equivariant polynomials of each atom's features, weighted by element."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.ops.tables import polynomials


def symmetric_contraction(features: Tensor, weights: list[list[Tensor]], elements: Tensor, lmax: int) -> Tensor:
    """Return B[n, (l m), c] = sum over nu and k of W_nu,l[z_n, k, c] P_nu,l,k,m(A[n, :, c]).

    P are the polynomials of `mlip.so3.symmetric_power` (Batatia et al., NeurIPS 2022, eq. 10 and 11).

    Args:
        features: A, [N, (lmax+1)^2, C].
        weights: weights[l][nu-1] is W_nu,l, [elements, K, C].
        elements: z, [N] int64.
        lmax: largest degree of the features.

    Returns:
        [N, (L+1)^2, C] with L = len(weights) - 1.
    """
    x = features.transpose(0, 1).contiguous()  # component first: gathers and products run over whole rows
    out = []
    for l, by_order in enumerate(weights):
        total = x.new_zeros(2 * l + 1, x.shape[1], x.shape[2])
        for nu, weight in enumerate(by_order, start=1):
            indices, coefficients = polynomials(lmax, nu, l, x)
            monomials = x.index_select(0, indices[0])
            for factor in range(1, nu):
                monomials = monomials * x.index_select(0, indices[factor])
            values = coefficients.flatten(1).T @ monomials.flatten(1)
            shaped = values.view(*coefficients.shape[1:], *x.shape[1:])
            total = total + torch.einsum("kmnc,nkc->mnc", shaped, weight[elements])
        out.append(total)
    return torch.cat(out).transpose(0, 1)

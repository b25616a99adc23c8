"""Coupling coefficients as tensors, made once for each precision and device."""

from __future__ import annotations

from functools import cache
from math import sqrt

import torch
from torch import Tensor

from mlip.so3 import wigner_3j
from mlip.so3.symmetric_power import symmetric_basis


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def coupling(l1: int, l2: int, l3: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return sqrt(2 l3 + 1) times the Wigner 3j tensor, [2*l1+1, 2*l2+1, 2*l3+1]."""
    return _coupling(l1, l2, l3, dtype, device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def polynomials(lmax: int, nu: int, l: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return monomials [nu, P] int64 and coefficients [P, K, 2l+1] of `mlip.so3.symmetric_power`."""
    return _polynomials(lmax, nu, l, dtype, device)


@cache
def _coupling(l1: int, l2: int, l3: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(wigner_3j(l1, l2, l3) * sqrt(2 * l3 + 1), dtype=dtype, device=device)


@cache
def _polynomials(lmax: int, nu: int, l: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    basis = symmetric_basis(lmax, nu, l)
    with torch.inference_mode(False):
        return (torch.tensor(basis.monomials.T.copy(), device=device),
                torch.tensor(basis.coefficients, dtype=dtype, device=device))

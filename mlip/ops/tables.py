"""Coupling coefficients as tensors, made once for each precision and device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import pi, sqrt
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.ops.factorisation import COMPLETE, basis_of, factorise
from mlip.so3 import wigner_3j
from mlip.so3.degrees import Paths
from mlip.so3.gaunt import gaunt

Numbers = tuple[NDArray[Any], ...]
Function = TypeVar("Function", bound=Callable[..., Any])
CPU = torch.device("cpu")  # given by name, so that `torch.set_default_device` has no say


def coupling(l1: int, l2: int, l3: int, of_gaunt: bool, like: Tensor) -> Tensor:
    """Return the coefficients of a path of the edge convolution, [2*l1+1, 2*l2+1, 2*l3+1].

    sqrt(2 l3 + 1) times the Wigner 3j tensor, or the Gaunt coefficients of component-normalised harmonics.
    """
    return constants("coupling", l1, l2, l3, of_gaunt, dtype=like.dtype, device=like.device)[0]


def polynomials(basis: str, lmax: int, nu: int, l: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return monomials [nu, P] int64 and coefficients [P, K, 2l+1] of `mlip.ops.factorisation.basis_of`."""
    return constants("polynomials", basis, lmax, nu, l, dtype=like.dtype, device=like.device)


def path_tables(paths: Paths) -> tuple[Tensor, ...]:
    """Return what the kernels of the edge convolution know of the paths, all in float64 or int64.

    Returns:
        Degrees l1, l3, weight and place of the messages of each path [P, 4]; terms [n, 2], an entry of the matrices of
        an edge (row by row, path after path) and the component of the harmonics that enters it; their coefficients [n].
    """
    return constants("paths", paths)


def contraction_tables(lmax: int, orders: tuple[int, ...], basis: str = COMPLETE) -> tuple[Tensor, ...]:
    """Return the attributes of `mlip.ops.factorisation.Factorisation`, in their order."""
    return constants("contraction", lmax, orders, basis)


def _contraction(lmax: int, orders: tuple[int, ...], basis: str) -> Numbers:
    f = factorise(lmax, orders, basis)
    return f.products, f.groups, f.leaves, f.terms, f.coefficients


def _paths(paths: Paths) -> Numbers:
    terms, coefficients, first = [], [], 0
    for l1, l2, l3 in paths.triples:
        (cg,) = _coupling(l1, l2, l3, paths.gaunt)
        a, b, c = np.nonzero(np.abs(cg) > 1e-12)
        terms.append(np.stack([first + a * (2 * l3 + 1) + c, l2 * l2 + b], axis=1))
        coefficients.append(cg[a, b, c])
        first += (2 * l1 + 1) * (2 * l3 + 1)
    rows = [(l1, l3, *place) for (l1, _, l3), place in zip(paths.triples, paths.places(), strict=True)]
    return np.array(rows), np.concatenate(terms), np.concatenate(coefficients)


def _coupling(l1: int, l2: int, l3: int, of_gaunt: bool) -> Numbers:
    return (gaunt(l1, l2, l3) * sqrt(4 * pi) if of_gaunt else wigner_3j(l1, l2, l3) * sqrt(2 * l3 + 1),)


def _polynomials(kind: str, lmax: int, nu: int, l: int) -> Numbers:
    basis = basis_of(kind, lmax, nu, l)
    return basis.monomials.T.copy(), basis.coefficients


MAKERS: dict[str, Callable[..., Numbers]] = {  # `mlip.ops.sphere_tables` adds others
    "coupling": _coupling, "polynomials": _polynomials, "paths": _paths, "contraction": _contraction}


def constants(name: str, *arguments: Hashable, dtype: torch.dtype = torch.float64,
               device: torch.device = CPU) -> tuple[Tensor, ...]:
    """Return the arrays of a maker as tensors, kept from call to call; in a captured graph they are literals."""
    if torch.compiler.is_compiling():
        return tuple(torch.tensor(values, dtype=torch.int64 if whole else dtype, device=device).reshape(shape)
                     for values, shape, whole in _literals(name, *arguments))
    return _tensors(name, arguments, dtype, device)


def constant(function: Function) -> Function:
    """Mark a function whose result on plain numbers a captured graph may keep: it is called, not captured.

    What `torch.compiler.assume_constant_result` does, without importing the compiler at once: that takes seconds and
    changes the environment.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def _literals(name: str, *arguments: Hashable) -> tuple[tuple[Any, ...], ...]:
    """Return plain numbers: a tensor made outside may enter a captured graph only once."""
    return tuple((tuple(a.reshape(-1).tolist()), a.shape, bool(np.issubdtype(a.dtype, np.integer)))
                 for a in MAKERS[name](*arguments))


_KEPT: dict[tuple[Hashable, ...], tuple[Tensor, ...]] = {}


def _tensors(name: str, arguments: tuple[Hashable, ...], dtype: torch.dtype,
             device: torch.device | None) -> tuple[Tensor, ...]:
    key = name, arguments, dtype, device
    if key in _KEPT:
        return _KEPT[key]
    with torch.inference_mode(False):
        made = tuple(torch.tensor(a, dtype=torch.int64 if np.issubdtype(a.dtype, np.integer) else dtype, device=device)
                     for a in MAKERS[name](*arguments))
    if all(type(t) is Tensor for t in made):  # not the fake ones of a tracer, of no use to anyone else
        _KEPT[key] = made
    return made

"""Coupling coefficients as tensors, made once for each precision and device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.ops.factorisation import factorise
from mlip.so3 import wigner_3j
from mlip.so3.degrees import Paths, size
from mlip.so3.gaunt import Entries, gaunt, gaunt_entries
from mlip.so3.harmonics import harmonics, norms, reflection_parity
from mlip.so3.quadrature import octant_quadrature, sphere_quadrature
from mlip.so3.symmetric_power import symmetric_basis

Numbers = tuple[NDArray[Any], ...]
PRODUCTS: dict[str, Callable[[int, int, int], Entries]] = {"gaunt": gaunt_entries}


class Form(NamedTuple):
    """A bilinear product of components of all degrees up to l1 and l2, projected on those up to l3."""

    kind: str  # one of PRODUCTS
    l1: int
    l2: int
    l3: int
    normalization: str = "integral"  # of the components of all three; one of NORMALIZATIONS


CPU = torch.device("cpu")  # given by name, so that `torch.set_default_device` has no say


def coupling(l1: int, l2: int, l3: int, of_gaunt: bool, like: Tensor) -> Tensor:
    """Return the coefficients of a path of the edge convolution, [2*l1+1, 2*l2+1, 2*l3+1].

    sqrt(2 l3 + 1) times the Wigner 3j tensor, or the Gaunt coefficients of component-normalised harmonics.
    """
    return _constants("coupling", l1, l2, l3, of_gaunt, dtype=like.dtype, device=like.device)[0]


def polynomials(lmax: int, nu: int, l: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return monomials [nu, P] int64 and coefficients [P, K, 2l+1] of `mlip.so3.symmetric_power`."""
    return _constants("polynomials", lmax, nu, l, dtype=like.dtype, device=like.device)


def path_tables(paths: Paths) -> tuple[Tensor, ...]:
    """Return what the kernels of the edge convolution know of the paths, all in float64 or int64.

    Returns:
        Degrees l1, l3, weight and place of the messages of each path [P, 4]; terms [n, 2], an entry of the matrices of an edge (row by row, path after path) and
        the component of the harmonics that enters it; their coefficients [n].
    """
    return _constants("paths", paths)


def contraction_tables(lmax: int, orders: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the attributes of `mlip.ops.factorisation.Factorisation`, in their order."""
    return _constants("contraction", lmax, orders)


def product_table(form: Form) -> tuple[Tensor, ...]:
    """Return the components [T, 3] int64 (product, first and second factor) and coefficients [T] float64 of a form."""
    return _constants("product", *form)


def product_matrix(form: Form, like: Tensor) -> tuple[Tensor, ...]:
    """Return the pairs of components that occur, first and second [P] int64, and their coefficients [M3, P]."""
    return _constants("product_matrix", *form, dtype=like.dtype, device=like.device)


def sphere_matrices(l1: int, l2: int, l3: int, normalization: str, like: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices of `sphere_product` that are exact for the degree l1 + l2 + l3.

    Returns:
        Harmonics on the points of a quadrature, [P, M1] and [P, M2], and those that project, [P, M3].
    """
    return _constants("sphere", l1, l2, l3, normalization, dtype=like.dtype, device=like.device)


def octant_matrices(l1: int, l2: int, l3: int, normalization: str, like: Tensor) -> tuple[Tensor, ...]:
    """Return `sphere_matrices` on representatives of points under reflections, [R, M1], [R, M2], [R, M3].

    With them the class of each component and the coordinates 0 of each representative, [max M] and [R] int64.
    """
    return _constants("octant", l1, l2, l3, normalization, dtype=like.dtype, device=like.device)


def _product(kind: str, l1: int, l2: int, l3: int, normalization: str) -> Numbers:
    index, coefficients = PRODUCTS[kind](l1, l2, l3)
    n1, n2, n3 = (norms(l, normalization) for l in (l1, l2, l3))
    return index, coefficients * n1[index[:, 1]] * n2[index[:, 2]] / n3[index[:, 0]]


def _product_matrix(kind: str, l1: int, l2: int, l3: int, normalization: str) -> Numbers:
    index, coefficients = _product(kind, l1, l2, l3, normalization)
    pairs, place = np.unique(index[:, 1:], axis=0, return_inverse=True)
    matrix = np.zeros((size(l3), len(pairs)))
    matrix[index[:, 0], place.ravel()] = coefficients
    return pairs[:, 0], pairs[:, 1], matrix


def _sphere(l1: int, l2: int, l3: int, normalization: str) -> Numbers:
    points, weights = sphere_quadrature(l1 + l2 + l3)
    return _matrices(points, weights, (l1, l2, l3), normalization)


def _octant(l1: int, l2: int, l3: int, normalization: str) -> Numbers:
    points, weights = octant_quadrature(l1 + l2 + l3)
    zero = (points == 0) @ np.array([1, 2, 4])
    return *_matrices(points, weights, (l1, l2, l3), normalization), reflection_parity(max(l1, l2, l3)), zero


def _matrices(points: NDArray[np.float64], weights: NDArray[np.float64], degrees: tuple[int, int, int],
              normalization: str) -> Numbers:
    to_x, to_y, back = (harmonics(points, l) for l in degrees)
    n1, n2, n3 = (norms(l, normalization) for l in degrees)
    return to_x * n1, to_y * n2, weights[:, None] * back / n3


def _contraction(lmax: int, orders: tuple[int, ...]) -> Numbers:
    f = factorise(lmax, orders)
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


def _polynomials(lmax: int, nu: int, l: int) -> Numbers:
    basis = symmetric_basis(lmax, nu, l)
    return basis.monomials.T.copy(), basis.coefficients


MAKERS: dict[str, Callable[..., Numbers]] = {"coupling": _coupling, "polynomials": _polynomials, "paths": _paths,
                                            "contraction": _contraction, "product": _product,
                                            "product_matrix": _product_matrix, "sphere": _sphere,
                                            "octant": _octant}


def _constants(name: str, *arguments: Hashable, dtype: torch.dtype = torch.float64,
               device: torch.device = CPU) -> tuple[Tensor, ...]:
    """Return the arrays of a maker as tensors, kept from call to call; in a captured graph they are literals."""
    if torch.compiler.is_compiling():
        return tuple(torch.tensor(values, dtype=torch.int64 if whole else dtype, device=device).reshape(shape)
                     for values, shape, whole in _literals(name, *arguments))
    return _tensors(name, arguments, dtype, device)


def _literals(name: str, *arguments: Hashable) -> tuple[tuple[Any, ...], ...]:
    """Return plain numbers: a tensor made outside may enter a captured graph only once."""
    return tuple((tuple(a.reshape(-1).tolist()), a.shape, bool(np.issubdtype(a.dtype, np.integer)))
                 for a in MAKERS[name](*arguments))


# What `torch.compiler.assume_constant_result` does, without importing the compiler at once: that takes seconds and
# changes the environment.
_literals._dynamo_marked_constant = True  # type: ignore[attr-defined]

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

"""Constants of products on the sphere: coefficients, harmonics on points, Fourier series, bases of vector signals."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlip.ops.tables import MAKERS, Numbers, constants
from mlip.so3 import wigner_3j
from mlip.so3.degrees import block, degree_of_component, size
from mlip.so3.edge_frame import EdgeFrame
from mlip.so3.fourier import fourier_to_harmonics, harmonics_to_fourier
from mlip.so3.gaunt import Entries, gaunt_entries, zonal_entries
from mlip.so3.harmonics import harmonics, norms, reflection_parity
from mlip.so3.poisson import poisson_entries
from mlip.so3.quadrature import octant_quadrature, sphere_quadrature
from mlip.so3.vector_harmonics import vector_basis

WIDTH = 16  # a vector of AVX-512: products with narrower matrices give a row bits that depend on its place
PRODUCTS: dict[str, Callable[[int, int, int], Entries]] = {"gaunt": gaunt_entries, "zonal": zonal_entries,
                                                            "poisson": poisson_entries}


class Form(NamedTuple):
    """A bilinear product of components of all degrees up to l1 and l2, projected on those up to l3."""

    kind: str  # one of PRODUCTS
    l1: int
    l2: int
    l3: int
    normalization: str = "integral"  # of the components of all three; one of NORMALIZATIONS


def product_table(form: Form) -> tuple[Tensor, ...]:
    """Return the components [T, 3] int64 (product, first and second factor) and coefficients [T] float64 of a form."""
    return constants("product", *form)


def product_matrix(form: Form, like: Tensor) -> tuple[Tensor, ...]:
    """Return the pairs of components that occur, first and second [P] int64, and their coefficients [M3, P]."""
    return constants("product_matrix", *form, dtype=like.dtype, device=like.device)


def sphere_matrices(form: Form, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of `sphere_product` for the Gaunt product, exact for the degree l1 + l2 + l3.

    Returns:
        Harmonics on the points of a quadrature, [P, M1] and [P, M2], and those that project, [P, M3].
    """
    to_x, to_y, back = constants("sphere", *form[1:], dtype=like.dtype, device=like.device)
    return to_x, to_y, back


def octant_matrices(form: Form, like: Tensor) -> tuple[Tensor, ...]:
    """Return `sphere_matrices` on representatives of points under reflections, [R, M1], [R, M2], [R, M3].

    With them the class of each component and the coordinates 0 of each representative, [max M] and [R] int64.
    """
    return constants("octant", *form[1:], dtype=like.dtype, device=like.device)


def octant_powers(l: int, l_out: int, nu: int, normalization: str, like: Tensor) -> tuple[Tensor, ...]:
    """Return what `sphere_powers` needs up to the power `nu`: [R, M1], [R, M3] and reflections as above."""
    return constants("octant_powers", l, l_out, nu, normalization, dtype=like.dtype, device=like.device)


def swiglu_matrices(lmax: int, mmax: int | None, like: Tensor,
                    reflected: bool) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Return what `sphere_product` needs for the product of two signals as EquiformerV3 takes it.

    Components are sqrt(4 pi) / sqrt((2l+1)(lmax+1)) times the coefficients of orthonormal harmonics, and for l > mmax
    both factors and the result carry another sqrt((2l+1)/(2 mmax+1)) (arXiv 2604.09130). The quadrature
    is exact: of any that is, the result is the same.

    Args:
        lmax: largest degree of the factors and of the result.
        mmax: largest order of components in the order of `EdgeFrame`; None for all, degree by degree.
        like: gives precision and device.
        reflected: whether points come as representatives in an octant, as the compiled product likes them.

    Returns:
        Matrices [P, M] of both factors, [P, M] of the result, and the reflections, if any.
    """
    to, back, *classes = constants("swiglu", lmax, mmax, reflected, dtype=like.dtype, device=like.device)
    return to, to, back, (classes[0], classes[1]) if reflected else None


def embedding_factors(lmax: int, mmax: int, like: Tensor) -> Tensor:
    """Return what a component of order 0 in the frame of an edge becomes times its harmonics, [(lmax+1)^2].

    1 / sqrt(2l+1), as harmonics are component-normalised, times sqrt((2l+1)/(2 mmax+1)) for l > mmax.
    """
    return constants("embedding", lmax, mmax, dtype=like.dtype, device=like.device)[0]


def sphere_samples(lmax: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what integrates the product of two functions of at most degree `lmax`, one of them a harmonic.

    Returns:
        Points [P, 3], and component-normalised harmonics on them times weights, [P, M]. Points without a weight and
        columns of zeros make P and M multiples of `WIDTH`.
    """
    points, weighted = constants("samples", lmax, dtype=like.dtype, device=like.device)
    return points, weighted


def component_degrees(lmax: int, like: Tensor) -> Tensor:
    """Return the degree of every component up to `lmax`, [(lmax+1)^2] int64."""
    return constants("degrees", lmax, dtype=like.dtype, device=like.device)[0]


def degree_norms(l: int, normalization: str, like: Tensor) -> Tensor:
    """Return `mlip.so3.harmonics.norms`, [(l+1)^2]."""
    return constants("norms", l, normalization, dtype=like.dtype, device=like.device)[0]


def fourier_tables(l: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return what makes Fourier coefficients of harmonics (`mlip.so3.fourier`).

    Returns:
        The components [2*l+1, 2*(l+1)] int64 that enter each order v, and their factors, real and imaginary part,
        [2*l+1, 2*(l+1), 2*l+1].
    """
    return constants("fourier", l, dtype=like.dtype, device=like.device)


def harmonic_tables(l_in: int, l_out: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return what makes harmonics of Fourier coefficients, l_out <= l_in.

    Returns:
        For each component its two places [(l_out+1)^2] int64 among the results of all orders, and the factors of
        these, real and imaginary part, [2*l_out+1, 2*l_in+1, 2*(l_out+1)].
    """
    return constants("harmonics", l_in, l_out, dtype=like.dtype, device=like.device)


def vector_basis_table(jmax: int, shift: int, like: Tensor) -> Tensor:
    """Return `mlip.so3.vector_harmonics.vector_basis`, [(jmax+1)^2, 3, (max(jmax+shift, 0)+1)^2]."""
    return constants("vector_basis", jmax, shift, dtype=like.dtype, device=like.device)[0]


def operator_basis(t: int, lmax: int, like: Tensor) -> Tensor:
    """Return sqrt(2l+1) w3j(a, b, l) for all a and b up to `t`, l up to `lmax`, [(t+1)^2, (t+1)^2, (lmax+1)^2]."""
    return constants("operator_basis", t, lmax, dtype=like.dtype, device=like.device)[0]


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
    return *_matrices(points, weights, (l1, l2, l3), normalization), *_reflections(points, max(l1, l2, l3))


def _octant_powers(l: int, l_out: int, nu: int, normalization: str) -> Numbers:
    points, weights = octant_quadrature(nu * l + l_out)
    to, _, back = _matrices(points, weights, (l, 0, l_out), normalization)
    return to, back, *_reflections(points, max(l, l_out))


def _swiglu(lmax: int, mmax: int | None, reflected: bool) -> Numbers:
    quadrature = octant_quadrature if reflected else sphere_quadrature
    points, weights = quadrature(3 * lmax, 3 * (lmax if mmax is None else mmax))
    flat = [(l, m) for l in range(lmax + 1) for m in range(-l, l + 1)]
    components = flat if mmax is None else list(EdgeFrame(lmax, mmax).kept())
    chosen = [l * l + l + m for l, m in components]
    degree = np.array([l for l, _ in components])
    scale = np.sqrt(4 * np.pi / ((2 * degree + 1) * (lmax + 1)))
    rescale = 1.0 if mmax is None else np.where(degree > mmax, np.sqrt((2 * degree + 1) / (2 * mmax + 1)), 1.0)
    values = harmonics(points, lmax)[:, chosen]
    matrices = values * (scale * rescale), weights[:, None] * values * (rescale / scale)
    if not reflected:
        return matrices
    parity, zero = _reflections(points, lmax)
    return *matrices, parity[chosen], zero


def _embedding(lmax: int, mmax: int) -> Numbers:
    degree = np.array(degree_of_component(lmax))
    return (np.where(degree > mmax, 1 / np.sqrt(2 * mmax + 1), 1 / np.sqrt(2 * degree + 1)),)


def _reflections(points: NDArray[np.float64], lmax: int) -> Numbers:
    return reflection_parity(lmax), (points == 0) @ np.array([1, 2, 4])


def _samples(lmax: int) -> Numbers:
    points, weights = sphere_quadrature(2 * lmax)
    weighted = weights[:, None] * harmonics(points, lmax) / np.sqrt(4 * np.pi)
    rows, columns = (-n % WIDTH for n in weighted.shape)
    return np.pad(points, ((0, rows), (0, 0)), mode="edge"), np.pad(weighted, ((0, rows), (0, columns)))


def _matrices(points: NDArray[np.float64], weights: NDArray[np.float64], degrees: tuple[int, int, int],
              normalization: str) -> Numbers:
    to_x, to_y, back = (harmonics(points, l) for l in degrees)
    n1, n2, n3 = (norms(l, normalization) for l in degrees)
    return to_x * n1, to_y * n2, weights[:, None] * back / n3


def _operator_basis(t: int, lmax: int) -> Numbers:
    out = np.zeros((size(t), size(t), size(lmax)))
    for a, b in np.ndindex(t + 1, t + 1):
        for l in range(abs(a - b), min(a + b, lmax) + 1):
            out[block(a), block(b), block(l)] = wigner_3j(a, b, l) * sqrt(2 * l + 1)
    return (out,)


def _fourier(l: int) -> Numbers:
    v, degree, sign = np.ogrid[-l : l + 1, 0 : l + 1, 1:-2:-2]
    components = np.where(abs(v) <= degree, degree * degree + degree + sign * v, 0)
    table = harmonics_to_fourier(l).reshape(2 * l + 1, 2 * (l + 1), 2 * l + 1)
    return components.reshape(2 * l + 1, -1), table.real, table.imag


def _harmonics(l_in: int, l_out: int) -> Numbers:
    table = fourier_to_harmonics(l_in, l_out).reshape(2 * l_out + 1, 2 * l_in + 1, -1)
    degree, order = np.array([(l, m) for l in range(l_out + 1) for m in range(-l, l + 1)]).T
    first, second = ((l_out + sign * order) * 2 * (l_out + 1) + 2 * degree + (sign < 0) for sign in (1, -1))
    return first, second, table.real, table.imag


MAKERS.update({
    "degrees": lambda lmax: (np.array(degree_of_component(lmax)),),
    "product": _product, "product_matrix": _product_matrix, "sphere": _sphere, "octant": _octant,
    "octant_powers": _octant_powers, "swiglu": _swiglu, "embedding": _embedding, "samples": _samples,
    "norms": lambda *arguments: (norms(*arguments),),
    "fourier": _fourier, "harmonics": _harmonics, "operator_basis": _operator_basis,
    "vector_basis": lambda *arguments: (vector_basis(*arguments),),
})

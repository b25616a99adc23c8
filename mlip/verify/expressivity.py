"""What bilinear products of degrees can express: counted from what the operations do, not from selection rules.

A product of two sets of components is equivariant: it couples degrees l1 and l2 to l3 by a multiple of the Wigner 3j
tensor. The multiples are found by applying the operation to all pairs of unit vectors, in float64. The measures are
those of Xie et al., "The Price of Freedom" (arXiv 2506.13523), for one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.errors import EngineMismatchError, OptionError
from mlip.ops.antisymmetric import poisson_bracket, vector_signal_product
from mlip.ops.gaunt import gaunt_product
from mlip.ops.matrix_product import matrix_product
from mlip.so3.degrees import block, size
from mlip.so3.wigner3j import wigner_3j

Array = NDArray[np.float64]
Path = tuple[int, int, int]
Degrees = int | Sequence[int]
Operation = Callable[[Tensor, Tensor, int], Tensor]

SMALL = 1e-9  # of the largest multiple: what is below is rounding
WEIGHTED = frozenset({"clebsch_gordan"})  # products that have a weight for each path


def clebsch_gordan_tensor(lmax: int, l_out: int) -> Array:
    """Return the Wigner 3j tensors of all paths in one, [(lmax+1)^2, (lmax+1)^2, (l_out+1)^2].

    Args:
        lmax: largest degree of both factors, at least 0.
        l_out: largest degree of the product, at least 0.
    """
    out = np.zeros((size(lmax), size(lmax), size(l_out)))
    for l1, l2 in np.ndindex(lmax + 1, lmax + 1):
        for l3 in range(abs(l1 - l2), min(l1 + l2, l_out) + 1):
            out[block(l1), block(l2), block(l3)] = wigner_3j(l1, l2, l3)
    return out


def _clebsch_gordan(x: Tensor, y: Tensor, l_out: int) -> Tensor:
    lmax = int(x.shape[-1] ** 0.5 + 0.5) - 1
    return torch.einsum("ni,nj,ijk->nk", x, y, torch.from_numpy(clebsch_gordan_tensor(lmax, l_out)))


# Each takes factors [n, (lmax+1)^2] and returns their products [n, (l_out+1)^2].
OPERATIONS: dict[str, Operation] = {"clebsch_gordan": _clebsch_gordan, "gaunt": gaunt_product,
                                    "poisson": poisson_bracket, "vector": vector_signal_product,
                                    "matrix": matrix_product}


@lru_cache(maxsize=8)
def coefficients(product: str, lmax: int, l_out: int | None = None) -> Array:
    """Return the coefficients of a product: what it makes of every pair of unit vectors.

    Args:
        product: one of `OPERATIONS`.
        lmax: largest degree of both factors, at least 0.
        l_out: largest degree of the product, 0 to 2 lmax; by default 2 lmax.

    Returns:
        [(lmax+1)^2, (lmax+1)^2, (l_out+1)^2], float64, components of the factors and the product; read-only.

    Raises:
        OptionError: an unknown product, a degree out of range.
    """
    l_out = 2 * lmax if l_out is None else l_out
    if product not in OPERATIONS:
        raise OptionError(f"product {product!r} is unknown; allowed: {', '.join(OPERATIONS)}")
    if lmax < 0 or not 0 <= l_out <= 2 * lmax:
        raise OptionError(f"degrees up to {lmax} and {l_out} were given; they must be 0 or more, and those of the "
                          "product at most twice those of the factors")
    unit = torch.eye(size(lmax), dtype=torch.float64)
    pairs = unit.repeat_interleave(len(unit), 1), unit.repeat(1, len(unit))  # in the layout that ours like best
    with torch.no_grad():
        out: Array = OPERATIONS[product](pairs[0].T, pairs[1].T, l_out).reshape(len(unit), len(unit), -1).numpy()
    out.setflags(write=False)
    return out


def strengths(product: str, inputs: Degrees, outputs: Degrees | None = None) -> dict[Path, float]:
    """Return the multiple of the Wigner 3j tensor with which a product couples degrees, for all it couples.

    Args:
        product: one of `OPERATIONS`.
        inputs: degrees of both factors; a number means all up to it.
        outputs: degrees of the product, likewise; by default all up to twice the largest of the factors.

    Returns:
        The multiple by path (l1, l2, l3); paths that the operation does not reach are absent.

    Raises:
        OptionError: as `coefficients`.
        EngineMismatchError: the product is not equivariant: a coefficient is no multiple of a Wigner 3j tensor.
    """
    factors = _degrees(inputs)
    results = _degrees(2 * max(factors, default=0) if outputs is None else outputs)
    tensor = coefficients(product, max(factors, default=-1), max(results, default=-1))
    largest = float(np.abs(tensor).max())
    out: dict[Path, float] = {}
    for l1 in factors:
        for l2 in factors:
            for l3 in results:
                values = tensor[block(l1), block(l2), block(l3)]
                coupled = abs(l1 - l2) <= l3 <= l1 + l2
                unit = wigner_3j(l1, l2, l3) if coupled else np.zeros(values.shape)
                multiple = float((values * unit).sum())
                if not np.abs(values - multiple * unit).max() <= SMALL * largest:
                    raise EngineMismatchError(f"the product {product!r} is not equivariant: its coefficients of "
                                              f"degrees {l1}, {l2}, {l3} are no multiple of the Wigner 3j tensor")
                if abs(multiple) > SMALL * largest:
                    out[l1, l2, l3] = multiple
    return out


def paths(product: str, inputs: Degrees, outputs: Degrees | None = None) -> list[Path]:
    """Return the paths (l1, l2, l3) that a product reaches ("interactability"); arguments and errors as `strengths`."""
    return list(strengths(product, inputs, outputs))


def parameters(product: str, inputs: Degrees, outputs: Degrees | None = None) -> int:
    """Return the number of independent parameters of a product with free factors for all degrees.

    The coefficients of each path are multiplied by a factor of each degree of both inputs and the output, and by a
    weight of the path where the product has such. The number is the rank of the derivative of the coefficients by
    factors and weights at a random point. Coefficients of different paths have no entry in common, so that one number
    for each path stands for them.

    Args:
        product: one of `OPERATIONS`.
        inputs: degrees of both factors; a number means all up to it.
        outputs: degrees of the product, likewise; by default all up to twice the largest of the factors.

    Returns:
        The number; for functions on the sphere 2 less than the number of factors, for one weight a path that of paths.

    Raises:
        OptionError, EngineMismatchError: as `strengths`.
    """
    found = strengths(product, inputs, outputs)
    if not found:
        return 0
    degrees, values = np.array(list(found)), np.array(list(found.values()))
    rows = np.arange(len(values))
    scales = np.random.default_rng(0).uniform(0.5, 1.5, (3, degrees.max() + 1))
    chosen = np.stack([scales[k, degrees[:, k]] for k in range(3)])
    jacobian = np.zeros((len(values), 3, degrees.max() + 1))
    for k in range(3):
        jacobian[rows, k, degrees[:, k]] = values * np.delete(chosen, k, axis=0).prod(axis=0)
    derivative = jacobian.reshape(len(values), -1)
    if product in WEIGHTED:
        derivative = np.concatenate([derivative, np.diag(values * chosen.prod(axis=0))], axis=1)
    return int(np.linalg.matrix_rank(derivative))


def dimension(product: str, inputs: Degrees, outputs: Degrees | None = None) -> int:
    """Return the dimension of the space that a product spans, with linear layers before and after ("expressivity").

    An equivariant linear layer of one channel is a factor for each degree. With several channels the sum of such
    products is free, so the space is the span over all factors: the rank of the coefficients for random factors.

    Args:
        product: one of `OPERATIONS`.
        inputs: degrees of both factors; a number means all up to it.
        outputs: degrees of the product, likewise; by default all up to twice the largest of the factors.

    Raises:
        OptionError, EngineMismatchError: as `strengths`.
    """
    found = strengths(product, inputs, outputs)
    if not found:
        return 0
    degrees, values = np.array(list(found)), np.array(list(found.values()))
    scales = np.random.default_rng(0).standard_normal((2 * len(values), 3, degrees.max() + 1))
    samples = values * np.stack([scales[:, k, degrees[:, k]] for k in range(3)]).prod(axis=0)
    return int(np.linalg.matrix_rank(samples))


def _degrees(given: Degrees) -> tuple[int, ...]:
    return tuple(range(given + 1)) if isinstance(given, int) else tuple(sorted(set(given)))

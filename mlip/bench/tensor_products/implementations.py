"""The implementations of products of degrees that `mlip bench tensor-products` times, ours and others."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlip.bench.tensor_products.cases import Case, tensor
from mlip.ops.antisymmetric import poisson_bracket, vector_signal_product
from mlip.ops.backend import compiled_is_available
from mlip.ops.fourier_product import fourier_product
from mlip.ops.gaunt import Method, gaunt_product
from mlip.ops.matrix_product import matrix_product
from mlip.so3.degrees import size
from mlip.so3.harmonics import harmonics
from mlip.so3.quadrature import sphere_quadrature
from mlip.so3.wigner3j import wigner_3j
from mlip.verify.expressivity import strengths

Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Implementation:
    """A way to compute a product.

    Attributes:
        product: which, one of `mlip.verify.expressivity.OPERATIONS`.
        layout: of its inputs and results, one of `mlip.bench.tensor_products.cases.LAYOUTS`.
        make: gives the function for a case and a number of channels.
        numbers: about how many numbers a forward run makes for each pair of signals, to foresee its memory.
        whole: whether it takes and makes all degrees; single ones are then filled up with zeros beforehand.
    """

    product: str
    layout: str
    make: Callable[[Case, int], Function]
    numbers: Callable[[Case], int]
    whole: bool = False


def available() -> list[str]:
    """Return the names of the implementations that can run here: without e3nn, those that need it are missing."""
    present = importlib.util.find_spec("e3nn") is not None
    return [name for name in IMPLEMENTATIONS if present or not name.startswith("e3nn")]


def _e3nn(product: str) -> Callable[[Case, int], Function]:
    """Return what makes e3nn's product "uuu" with fixed factors of all paths.

    Later versions of e3nn changed signs of Wigner 3j tensors, so that the sign of each path is found by comparison. A
    factor in e3nn is positive; where a sign differs, the paths have weights, which are 1 or -1.
    """

    def make(case: Case, channels: int) -> Function:
        o3: Any = importlib.import_module("e3nn.o3")
        found = strengths(product, case.inputs, case.outputs)
        signs = {(a, b, c): np.sign((o3.wigner_3j(a, b, c, dtype=torch.float64).numpy() * wigner_3j(a, b, c)).sum() * s)
                 for (a, b, c), s in found.items()}
        weighted = min(signs.values()) < 0
        into = {l: i for i, l in enumerate(case.inputs)}
        out = {l: i for i, l in enumerate(case.outputs)}
        paths = [(into[a], into[b], out[c], "uuu", weighted, s * s) for (a, b, c), s in found.items()]
        irreps = [o3.Irreps([(channels, (l, 1)) for l in degrees]) for degrees in (case.inputs, case.outputs)]
        module = o3.TensorProduct(irreps[0], irreps[0], irreps[1], paths, irrep_normalization="none",
                                  path_normalization="none", internal_weights=False, shared_weights=True)
        if not weighted:
            return lambda x, y: module(x, y)
        weights = torch.tensor(list(signs.values()), dtype=torch.float32).repeat_interleave(channels)
        return lambda x, y: module(x, y, weights)

    return make


def _dense(product: str) -> Callable[[Case, int], Function]:
    """Return what makes one contraction with all coefficients, zeros included."""

    def make(case: Case, channels: int) -> Function:
        table = torch.from_numpy(tensor(product, case)).float()
        return lambda x, y: torch.einsum("ni,nj,ijk->nk", x, y, table)

    return make


def _sparse(product: str) -> Callable[[Case, int], Function]:
    """Return what makes products of the pairs whose coefficient is not zero, added up."""

    def make(case: Case, channels: int) -> Function:
        table = tensor(product, case)
        i, j, k = (torch.from_numpy(a) for a in np.nonzero(np.abs(table) > 1e-12))
        values = torch.from_numpy(table)[i, j, k].float()[:, None]

        def function(x: Tensor, y: Tensor) -> Tensor:
            return x.new_zeros(table.shape[2], x.shape[1]).index_add_(0, k, x[i] * y[j] * values)

        return function

    return make


def _grid(case: Case, channels: int) -> Function:
    """Return the product point by point: two matrices, a product, a matrix."""
    points, weights = sphere_quadrature(_grid_degree(case))
    values = harmonics(points, max(case.l_in, case.l_out))
    into = torch.from_numpy(values[:, case.components_in].T.copy()).float()
    back = torch.from_numpy(values[:, case.components_out] * weights[:, None]).float()
    return lambda x, y: ((x @ into) * (y @ into)) @ back


def _grid_degree(case: Case) -> int:
    return 2 * case.l_in + case.l_out


def _points(case: Case) -> int:
    return len(sphere_quadrature(_grid_degree(case))[1])


def _gaunt(method: Method) -> Callable[[Case, int], Function]:
    return lambda case, channels: lambda x, y: gaunt_product(x, y, case.l_out, method=method)


def _whole(product: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Case, int], Function]:
    """Return what makes a product of all degrees."""
    return lambda case, channels: lambda x, y: product(x, y, case.l_out)


def _pairs(case: Case) -> int:
    return len(case.components_in) ** 2


def _terms(product: str) -> Callable[[Case], int]:
    return lambda case: 3 * int((np.abs(tensor(product, case)) > 1e-12).sum())


def _waves(case: Case) -> int:
    return 7 * (4 * case.l_in + 1) ** 2


def _operators(case: Case) -> int:
    return 3 * size(case.l_in) ** 2


def _fields(case: Case) -> int:
    return 6 * (2 * size(case.l_in + 1) + size(case.l_out + 1)) + (0 if compiled_is_available() else 18 * _pairs(case))


def _own(case: Case) -> int:
    return 2 * size(case.l_in) + size(case.l_out) + (0 if compiled_is_available() else 3 * _pairs(case))


IMPLEMENTATIONS: dict[str, Implementation] = {
    "mlip": Implementation("gaunt", "view", _gaunt("auto"), _own, whole=True),
    "mlip sparse": Implementation("gaunt", "view", _gaunt("sparse"), _own, whole=True),
    "mlip grid": Implementation("gaunt", "view", _gaunt("grid"), _own, whole=True),
    "e3nn": Implementation("gaunt", "e3nn", _e3nn("gaunt"), _pairs),
    "torch sparse": Implementation("gaunt", "first", _sparse("gaunt"), _terms("gaunt")),
    "torch grid": Implementation("gaunt", "last", _grid, lambda case: 3 * _points(case)),
    "GTP Fourier": Implementation("gaunt", "last", _whole(fourier_product), _waves, whole=True),
    "e3nn all paths": Implementation("clebsch_gordan", "e3nn", _e3nn("clebsch_gordan"), _pairs),
    "CGTP dense": Implementation("clebsch_gordan", "last", _dense("clebsch_gordan"), _pairs),
    "CGTP sparse": Implementation("clebsch_gordan", "first", _sparse("clebsch_gordan"), _terms("clebsch_gordan")),
    "Poisson": Implementation("poisson", "view", _whole(poisson_bracket), _own, whole=True),
    "VSTP": Implementation("vector", "last", _whole(vector_signal_product), _fields, whole=True),
    "MTP": Implementation("matrix", "last", _whole(matrix_product), _operators, whole=True),
}

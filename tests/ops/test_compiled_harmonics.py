"""The compiled spherical harmonics against plain torch: values and derivatives of every order."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.ops import spherical_harmonics
from mlip.ops._library import LIBRARY
from mlip.so3.degrees import size

pytestmark = pytest.mark.skipif(LIBRARY.path is None, reason=f"no compiled kernels: {LIBRARY.problem}")
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def assert_close(found: Tensor, exact: Tensor) -> None:
    assert found.dtype != exact.dtype or found.shape == exact.shape
    scale = float(exact.detach().abs().max()) if exact.numel() else 1.0
    torch.testing.assert_close(found.double(), exact.double(), rtol=0, atol=TOLERANCE[found.dtype] * max(scale, 1.0))


def derivatives(vectors: Tensor, lmax: int, backend: str) -> list[Tensor]:
    """Return Y, d(g . Y)/dr, its derivatives by r and g along v, and those of the former by r, g and v along u."""
    dtype = vectors.dtype
    r, g = vectors.clone().requires_grad_(), numbers(1, len(vectors), size(lmax), dtype=dtype).requires_grad_()
    v = numbers(2, len(vectors), 3, dtype=dtype).requires_grad_()
    u = numbers(3, len(vectors), 3, dtype=dtype).requires_grad_()
    y = spherical_harmonics(r, lmax, backend=backend)
    (first,) = torch.autograd.grad((y * g).sum(), r, create_graph=True)
    second = torch.autograd.grad((first * v).sum(), (r, g), create_graph=True)
    third = torch.autograd.grad((second[0] * u).sum(), (r, g, v), create_graph=True)
    fourth = torch.autograd.grad(sum(t.square().sum() for t in third), (r, g, v, u))
    return [y, first, *second, *third, *fourth]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lmax", range(9))
@pytest.mark.parametrize("edges", [1, 7, 33])
def test_values_and_gradients(lmax: int, dtype: torch.dtype, edges: int) -> None:
    r, g, v = 2.0 * numbers(0, edges, 3), numbers(1, edges, size(lmax)), numbers(2, edges, 3)
    ops, low = torch.ops.mlip, (r.to(dtype), g.to(dtype), v.to(dtype))
    r, g = r.requires_grad_(), g.requires_grad_()
    y = spherical_harmonics(r, lmax, backend="reference")
    assert_close(ops.spherical_harmonics(low[0], lmax), y)
    if lmax == 0:
        assert not ops.spherical_harmonics_backward(low[0], low[1]).any()
        assert not ops.spherical_harmonics_hvp(*low).any()
        return
    (first,) = torch.autograd.grad((y * g).sum(), r, create_graph=True)
    by_r, by_g = torch.autograd.grad((first * v).sum(), (r, g))
    assert_close(ops.spherical_harmonics_backward(low[0], low[1]), first)
    assert_close(ops.spherical_harmonics_hvp(*low), by_r)
    assert_close(ops.spherical_harmonics_jvp(low[0], low[2], lmax), by_g)


@pytest.mark.parametrize("lmax", [1, 3])
def test_four_orders(lmax: int) -> None:
    r = torch.nn.functional.normalize(numbers(0, 5, 3), dim=1) * torch.linspace(0.7, 2, 5).double()[:, None]
    for found, exact in zip(derivatives(r, lmax, "compiled"), derivatives(r, lmax, "reference"), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11 * float(exact.detach().abs().max()))


@pytest.mark.parametrize("axis", [(0, 1, 0), (0, -1, 0), (1, 0, 0), (0, 0, -1), (0, 1, 1e-9)])
def test_no_singular_direction(axis: tuple[float, float, float]) -> None:
    r = 1.3 * torch.tensor([axis], dtype=torch.float64)
    for found, exact in zip(derivatives(r, 4, "compiled"), derivatives(r, 4, "reference"), strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11 * float(exact.detach().abs().max()))


def test_derivatives_of_each_operator() -> None:
    r, g, v = (t.requires_grad_() for t in (numbers(0, 2, 3), numbers(1, 2, 9), numbers(2, 2, 3)))
    ops, check, check_twice = torch.ops.mlip, torch.autograd.gradcheck, torch.autograd.gradgradcheck
    cases = [(lambda a: ops.spherical_harmonics(a, 2), (r,)),
             (lambda a, b: ops.spherical_harmonics_jvp(a, b, 2), (r, v)),
             (ops.spherical_harmonics_backward, (r, g)), (ops.spherical_harmonics_hvp, (r, g, v))]
    for function, inputs in cases:
        assert check(function, inputs)
        assert check_twice(function, inputs, fast_mode=True)
    assert check(ops.spherical_harmonics_hvp, (r.detach(), g, v.detach()))  # by the gradient alone


def test_degree_zero_is_constant() -> None:
    r = numbers(0, 3, 3).requires_grad_()
    y = spherical_harmonics(r, 0, backend="compiled")
    assert torch.equal(y, torch.ones(3, 1, dtype=torch.float64))
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), r, create_graph=True)
        assert not y.any()


def test_torch_accepts_the_operators() -> None:
    r, g, v = (numbers(k, 5, n).requires_grad_() for k, n in enumerate((3, 16, 3)))
    ops = torch.ops.mlip
    for op, arguments in [(ops.spherical_harmonics, (r, 3)), (ops.spherical_harmonics_jvp, (r, v, 3)),
                          (ops.spherical_harmonics_backward, (r, g)), (ops.spherical_harmonics_hvp, (r, g, v))]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_captured_as_one_graph(backend: str) -> None:
    def function(vectors: Tensor) -> Tensor:
        return spherical_harmonics(vectors, 3).square().cumsum(0)

    r, again = numbers(0, 9, 3).requires_grad_(), numbers(0, 9, 3).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        out = torch.compile(function, fullgraph=True, backend=backend)(r)
        out.sum().backward()
    expected = function(again)
    expected.sum().backward()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(r.grad, again.grad, rtol=0, atol=1e-12)


def test_empty_and_strided() -> None:
    assert spherical_harmonics(torch.empty(0, 3), 3).shape == (0, 16)
    r, g = numbers(0, 3, 20).T, numbers(1, 16, 20).T
    assert not r.is_contiguous()
    ops = torch.ops.mlip
    assert torch.equal(ops.spherical_harmonics(r, 3), ops.spherical_harmonics(r.contiguous(), 3))
    assert torch.equal(ops.spherical_harmonics_backward(r, g),
                       ops.spherical_harmonics_backward(r.contiguous(), g.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_threads_and_neighbours_do_not_matter(dtype: torch.dtype) -> None:
    r, g, v = (numbers(k, 5003, n, dtype=dtype) for k, n in enumerate((3, 16, 3)))
    ops = torch.ops.mlip

    def everything(begin: int, end: int) -> list[Tensor]:
        a, b, c = r[begin:end], g[begin:end], v[begin:end]
        return [ops.spherical_harmonics(a, 3), ops.spherical_harmonics_jvp(a, c, 3),
                ops.spherical_harmonics_backward(a, b), ops.spherical_harmonics_hvp(a, b, c)]

    threads, one = torch.get_num_threads(), everything(0, 5003)
    try:
        torch.set_num_threads(2)
        two = everything(0, 5003)
    finally:
        torch.set_num_threads(threads)
    for a, b, alone in zip(one, two, everything(4001, 4002), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[4001:4002], alone)


def test_wrong_shapes_are_refused() -> None:
    ops = torch.ops.mlip
    with pytest.raises(RuntimeError, match=r"vectors \[edges, 3\]"):
        ops.spherical_harmonics(torch.zeros(4, 2), 1)
    with pytest.raises(RuntimeError, match=r"must be \[edges, \(lmax\+1\)\^2\]"):
        ops.spherical_harmonics_backward(torch.zeros(4, 3), torch.zeros(4, 5))
    with pytest.raises(RuntimeError, match="lmax must be"):
        ops.spherical_harmonics(torch.zeros(4, 3), -1)
    with pytest.raises(RuntimeError, match="tangents must fit"):
        ops.spherical_harmonics_jvp(torch.zeros(4, 3), torch.zeros(3, 3), 1)

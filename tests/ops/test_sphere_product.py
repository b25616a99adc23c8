"""The product on the sphere: compiled against plain torch, derivatives, and the exact Gaunt products."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops import spherical_harmonics
from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend
from mlip.ops.sphere_product import sphere_product, unfold
from mlip.ops.sphere_tables import Form, octant_matrices, sphere_matrices
from mlip.so3.degrees import size
from mlip.so3.quadrature import sphere_quadrature

needs_kernels = pytest.mark.skipif(LIBRARY.path is None, reason=f"no compiled kernels: {LIBRARY.problem}")
BACKENDS = [pytest.param("compiled", marks=needs_kernels), "reference"]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}
GOLDEN = [(1, 1), (2, 2), (3, 1), (3, 3), (5, 5)]


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def problem(samples: int, channels: int, sizes: tuple[int, int, int, int] = (4, 9, 5, 14),
            dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    m1, m2, m3, points = sizes
    shapes = ((samples, m1, channels), (samples, m2, channels), (points, m1), (points, m2), (points, m3))
    return tuple(numbers(k, *shape, dtype=dtype) for k, shape in enumerate(shapes))


def matrices(l1: int, l2: int, l3: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of the exact Gaunt product of orthonormal harmonics."""
    points, weights = sphere_quadrature(l1 + l2 + l3)
    harmonics = spherical_harmonics(torch.from_numpy(points), max(l1, l2, l3)) / math.sqrt(4 * math.pi)
    return (harmonics[:, : size(l1)], harmonics[:, : size(l2)],
            harmonics[:, : size(l3)] * torch.from_numpy(weights)[:, None])


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needs_kernels
class TestCompiled:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("channels", [1, 3, 16, 37, 128])
    @pytest.mark.parametrize("samples", [0, 1, 5])
    @pytest.mark.parametrize("sizes", [(4, 9, 5, 14), (16, 16, 16, 50), (1, 49, 30, 194), (3, 2, 1, 1)])
    def test_value(self, sizes: tuple[int, int, int, int], samples: int, channels: int, dtype: torch.dtype) -> None:
        inputs = problem(samples, channels, sizes)
        found = sphere_product(*(t.to(dtype) for t in inputs), backend="compiled")
        exact = sphere_product(*inputs, backend="reference")
        assert found.dtype == dtype
        assert found.shape == exact.shape == (samples, sizes[2], channels)
        scale = sphere_product(*(t.abs() for t in inputs), backend="reference")  # what rounding errors grow with
        assert (((found.double() - exact) / scale).abs() <= TOLERANCE[dtype]).all()

    def test_square(self) -> None:
        x, _, to_x, _, back = problem(3, 37)
        square = sphere_product(x, x, to_x, to_x, back, backend="compiled")
        assert torch.equal(square, sphere_product(x, x.clone(), to_x, to_x, back, backend="compiled"))
        (by_x,) = torch.autograd.grad(sphere_product(x.requires_grad_(), x, to_x, to_x, back).square().sum(), x)
        other = x.detach().requires_grad_()
        (exact,) = torch.autograd.grad(
            sphere_product(other, other, to_x, to_x, back, backend="reference").square().sum(), other)
        torch.testing.assert_close(by_x, exact, rtol=1e-12, atol=1e-10)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_threads_and_neighbours_do_not_matter(self, dtype: torch.dtype) -> None:
        x, y, *rest = problem(101, 37, (16, 16, 16, 50), dtype)
        with threads(1):
            one = sphere_product(x, y, *rest)
        with threads(2):
            assert torch.equal(sphere_product(x, y, *rest), one)
        assert torch.equal(sphere_product(x[70:71], y[70:71], *rest), one[70:71])
        assert torch.equal(sphere_product(x[..., 5:6], y[..., 5:6], *rest), one[..., 5:6])

    def test_torch_accepts_the_operator(self) -> None:
        x, y, *rest = problem(3, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            reflections = torch.tensor([0, 1, 2, 4, 7, 3, 5, 6, 0]), torch.arange(14) % 8
            torch.library.opcheck(torch.ops.mlip.sphere_product,
                                  (x.requires_grad_(), y.requires_grad_(), *rest, *reflections))

    def test_wrong_shapes_are_refused(self) -> None:
        x, y, *rest = problem(3, 5)
        parity, zero = torch.zeros(9, dtype=torch.int64), torch.full((14,), 7)
        torch.ops.mlip.sphere_product(x, y, *rest, parity, zero)
        for wrong, words in (((x, y[:2], *rest, parity, zero), "do not fit"),
                             ((x, y.float(), *rest, parity, zero), "one precision"),
                             ((x, y, *rest, parity[:8], zero), "do not fit the matrices"),
                             ((x, y, *rest, parity, zero[:3]), "do not fit the matrices"),
                             ((x, y, *rest, parity + 8, zero), "from 0 to 7"),
                             ((x, y, *rest, parity, zero - 8), "from 0 to 7"),
                             ((x, y, *rest, parity.float(), zero), "int64")):
            with pytest.raises(RuntimeError, match=words):
                torch.ops.mlip.sphere_product(*wrong)


@pytest.mark.parametrize("backend", BACKENDS)
class TestProduct:
    @pytest.mark.parametrize("samples", [1, 2])
    def test_derivatives(self, backend: Backend, samples: int) -> None:
        x, y, *rest = problem(samples, 3, (3, 4, 2, 7))
        x, y = x.requires_grad_(), y.requires_grad_()

        def call(a: Tensor, b: Tensor) -> Tensor:
            return sphere_product(a, b, *rest, backend=backend)

        assert torch.autograd.gradcheck(call, (x, y))
        assert torch.autograd.gradgradcheck(call, (x, y))
        assert torch.autograd.gradcheck(lambda a: call(a, y.detach()), (x,))

    def test_third_derivative(self, backend: Backend) -> None:
        x, y, *rest = problem(1, 2, (3, 3, 3, 7))
        results = []
        for name in (backend, "reference"):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            value = sphere_product(a, b, *rest, backend=name).pow(4).sum()
            (first,) = torch.autograd.grad(value, a, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), b, create_graph=True)
            results.append(torch.autograd.grad(second.square().sum(), (a, b)))
        for found, exact in zip(*results, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10 * float(exact.abs().max()))

    @pytest.mark.parametrize("shape", [(), (2, 3), (0,), (2, 0, 1)])
    def test_leading_sizes_and_no_samples(self, backend: Backend, shape: tuple[int, ...]) -> None:
        _, _, *rest = problem(1, 1)
        x, y = numbers(0, *shape, 4, 3).requires_grad_(), numbers(1, *shape, 9, 3).requires_grad_()
        out = sphere_product(x, y, *rest, backend=backend)
        assert out.shape == (*shape, 5, 3)
        torch.testing.assert_close(out, sphere_product(x, y, *rest, backend="reference"), rtol=1e-12, atol=1e-12)
        for gradient, t in zip(torch.autograd.grad(out.sum(), (x, y)), (x, y), strict=True):
            assert gradient.shape == t.shape

    def test_no_channels(self, backend: Backend) -> None:
        assert sphere_product(*problem(3, 0), backend=backend).shape == (3, 5, 0)

    def test_strided(self, backend: Backend) -> None:
        inputs = problem(3, 5)
        strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in inputs]
        assert not any(t.is_contiguous() for t in strided)
        torch.testing.assert_close(sphere_product(*strided, backend=backend),
                                   sphere_product(*inputs, backend=backend), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("compiler", ["eager", "inductor"])
    def test_captured_as_one_graph(self, backend: Backend, compiler: str) -> None:
        x, y, *rest = problem(3, 5)

        def function(a: Tensor, b: Tensor) -> Tensor:
            return sphere_product(a, b, *rest, backend=backend).square()

        inputs, again = ([x.clone().requires_grad_(), y.clone().requires_grad_()] for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            out = torch.compile(function, fullgraph=True, backend=compiler)(*inputs)
            found = torch.autograd.grad(out.sum(), inputs)
        expected = function(*again)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-10)
        for a, b in zip(found, torch.autograd.grad(expected.sum(), again), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)

    @pytest.mark.parametrize(("l1", "l2"), GOLDEN)
    def test_gaunt_products(self, backend: Backend, shared_dir: Path, l1: int, l2: int) -> None:
        with np.load(shared_dir / "golden" / "gaunt_mace" / f"gtp_l{l1}_l{l2}.npz") as file:
            golden = {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype == np.float64}
        x, y = (golden[key].mT.contiguous().requires_grad_() for key in ("x1", "x2"))
        out = sphere_product(x, y, *matrices(l1, l2, l1 + l2), backend=backend)
        close = {"rtol": 0, "atol": 1e-12}
        torch.testing.assert_close(out.mT, golden["out_integral"], **close)
        by_x, by_y = torch.autograd.grad(out, (x, y), golden["grad_out"].mT)
        torch.testing.assert_close(by_x.mT, golden["grad_x1_integral"], **close)
        torch.testing.assert_close(by_y.mT, golden["grad_x2_integral"], **close)

    def test_product_of_functions(self, backend: Backend) -> None:
        x, y = numbers(0, 2, 9, 4), numbers(1, 2, 4, 4)
        out = sphere_product(x, y, *matrices(2, 1, 3), backend=backend)
        directions = spherical_harmonics(numbers(2, 20, 3), 3) / math.sqrt(4 * math.pi)
        torch.testing.assert_close(directions @ out, (directions[:, :9] @ x) * (directions[:, :4] @ y),
                                   rtol=0, atol=1e-12)

    @pytest.mark.parametrize("sizes", [(4, 9, 5, 14), (16, 9, 16, 40)])
    def test_reflections(self, backend: Backend, sizes: tuple[int, int, int, int]) -> None:
        """Any classes of components and representatives: the same as with the matrices of all images."""
        x, y, *folded = problem(3, 5, sizes)
        generator = np.random.default_rng(0)
        parity = torch.from_numpy(generator.integers(0, 8, max(sizes[:3])))
        zero = torch.from_numpy(generator.integers(0, 8, sizes[3]))
        for matrix in folded:  # what is odd vanishes where the coordinate is 0
            matrix[(parity[None, : matrix.shape[1]] & zero[:, None]) != 0] = 0
        full = [unfold(matrix, parity, zero) for matrix in folded]
        assert len(full[0]) == sum(2 ** (3 - int(z).bit_count()) for z in zero)
        expected = sphere_product(x, y, *full, backend="reference")
        found = sphere_product(x, y, *folded, reflections=(parity, zero), backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)
        for t in (x, y):
            t.requires_grad_()
        gradients = [torch.autograd.grad(f.sin().sum(), (x, y)) for f in (
            sphere_product(x, y, *folded, reflections=(parity, zero), backend=backend),
            sphere_product(x, y, *full, backend="reference"))]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)

    @pytest.mark.parametrize("degrees", [(1, 1, 2), (3, 2, 5), (2, 4, 1), (6, 6, 6), (8, 3, 11)])
    def test_the_octant(self, backend: Backend, degrees: tuple[int, int, int]) -> None:
        """Representatives in the octant give the products of all points."""
        l1, l2, l3 = degrees
        x, y = numbers(0, 2, size(l1), 3), numbers(1, 2, size(l2), 3)
        form = Form("gaunt", l1, l2, l3)
        to_x, to_y, back, *reflections = octant_matrices(form, x)
        found = sphere_product(x, y, to_x, to_y, back, (reflections[0], reflections[1]), backend)
        torch.testing.assert_close(found, sphere_product(x, y, *sphere_matrices(form, x), backend=backend),
                                   rtol=0, atol=1e-12 * size(l1))

    def test_what_is_refused(self, backend: Backend) -> None:
        x, y, to_x, to_y, back = problem(3, 5)
        with pytest.raises(OptionError, match=r"to_y requires a gradient.*to_y\.detach"):
            sphere_product(x, y, to_x, to_y.clone().requires_grad_(), back, backend=backend)
        with pytest.raises(OptionError, match=r"back has the shape \(13, 5\)"):
            sphere_product(x, y, to_x, to_y, back[1:], backend=backend)
        with pytest.raises(OptionError, match="one precision"):
            sphere_product(x, y.float(), to_x, to_y, back, backend=backend)
        for a, b in ((x[:2], y), (x, y[..., :1]), (x[:, :3], y), (x[0, 0], y)):
            with pytest.raises(OptionError, match="do not fit"):
                sphere_product(a, b, to_x, to_y, back, backend=backend)

"""The Gaunt product and its powers: golden numbers, all methods alike, derivatives, layouts, mistakes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops import compiled_is_available, gaunt_power, gaunt_product, spherical_harmonics
from mlip.ops.backend import Backend
from mlip.ops.gaunt import Method, _fastest
from mlip.so3.degrees import size
from mlip.so3.harmonics import NORMALIZATIONS

needs_kernels = pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")
BACKENDS = [pytest.param("compiled", marks=needs_kernels), "reference"]
PAIRS = [(1, 1), (2, 2), (3, 1), (3, 3), (5, 5)]
POWERS = [(1, 3), (2, 3), (3, 2), (4, 3)]
EXACT = {"rtol": 0, "atol": 1e-12}
pytestmark = pytest.mark.parametrize(("method", "backend"), [
    *(pytest.param(m, b, marks=needs_kernels if b == "compiled" else ()) for m in ("auto", "sparse", "grid")
      for b in ("compiled", "reference")), ("fourier", "auto")])


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def golden(shared_dir: Path) -> Callable[[str], dict[str, Tensor]]:
    """Return the float64 arrays of a file by name."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(shared_dir / "golden" / "gaunt_mace" / f"{name}.npz") as file:
            return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype == np.float64}

    return read


class TestProduct:
    @pytest.mark.parametrize(("l1", "l2"), PAIRS)
    def test_golden(self, golden: Any, l1: int, l2: int, method: Method, backend: Backend) -> None:
        found = golden(f"gtp_l{l1}_l{l2}")
        x, y = found["x1"].requires_grad_(), found["x2"].requires_grad_()
        for name in NORMALIZATIONS:
            out = gaunt_product(x, y, normalization=name, method=method, backend=backend)
            torch.testing.assert_close(out, found[f"out_{name}"], **EXACT)
        gradients = torch.autograd.grad(gaunt_product(x, y, method=method, backend=backend), (x, y), found["grad_out"])
        for gradient, name in zip(gradients, ("grad_x1_integral", "grad_x2_integral"), strict=True):
            torch.testing.assert_close(gradient, found[name], **EXACT)
        weighted = gaunt_product(x, y, method=method, weights=(found["w1"], found["w2"], found["w3"]), backend=backend)
        torch.testing.assert_close(weighted, found["out_weighted_integral"], **EXACT)

    def test_nothing_aliases_where_the_result_is_cut(self, golden: Any, method: Method, backend: Backend) -> None:
        """The normalisation of e3nn's grids; its own result at this resolution is off by 1."""
        found = golden("s2grid_norm_l3_l3_trunc3")
        scale = torch.tensor([math.sqrt(math.pi / (2 * l + 1)) for l in range(4) for _ in range(2 * l + 1)],
                             dtype=torch.float64)
        out = gaunt_product(found["x1"] * scale, found["x2"] * scale, 3, method=method, backend=backend) / scale
        torch.testing.assert_close(out, found["out_exact"], **EXACT)
        assert (out - found["out_s2grid"]).abs().max() > 0.1

    @pytest.mark.parametrize("degrees", [(0, 0), (0, 3), (4, 1), (3, 3), (6, 2), (8, 8)])
    def test_cut_results_are_the_first_components(self, degrees: tuple[int, int], method: Method,
                                                  backend: Backend) -> None:
        l1, l2 = degrees
        x, y = numbers(0, 2, size(l1)), numbers(1, 2, size(l2))
        whole = gaunt_product(x, y, method="sparse", backend="reference")
        for l_out in {0, 1, max(degrees), l1 + l2} & set(range(l1 + l2 + 1)):
            out = gaunt_product(x, y, l_out, method=method, backend=backend)
            torch.testing.assert_close(out, whole[:, : size(l_out)], rtol=0, atol=1e-12 * max(1, l1) * max(1, l2))

    def test_functions_are_multiplied_point_by_point(self, method: Method, backend: Backend) -> None:
        directions = spherical_harmonics(numbers(2, 30, 3), 7)
        x, y = numbers(0, 5, size(3)), numbers(1, 5, size(4))
        out = gaunt_product(x, y, normalization="component", method=method, backend=backend)
        product = (x @ directions[:, : size(3)].T) * (y @ directions[:, : size(4)].T)
        torch.testing.assert_close(out @ directions.T, product, rtol=0, atol=1e-11)

    def test_float32(self, method: Method, backend: Backend) -> None:
        x, y = numbers(0, 7, size(4)), numbers(1, 7, size(3))
        out = gaunt_product(x.float(), y.float(), method=method, backend=backend)
        exact = gaunt_product(x, y, method="sparse", backend="reference")
        assert out.dtype == torch.float32
        assert (out.double() - exact).abs().max() <= 2e-6 * exact.abs().max()

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,), (2, 0), (3, 16), (2, 2, 33)])
    def test_layouts(self, shape: tuple[int, ...], method: Method, backend: Backend) -> None:
        """Components side by side, channels side by side, one of each, gaps: the same numbers."""
        x, y = numbers(0, *shape, size(2)), numbers(1, *shape, size(3))
        expected = gaunt_product(x, y, method="sparse", backend="reference")
        assert expected.shape == (*shape, size(5))
        for a in layouts(x):
            for b in layouts(y):
                a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
                out = gaunt_product(a, b, method=method, backend=backend)
                torch.testing.assert_close(out, expected, **EXACT)
                assert [g.shape for g in torch.autograd.grad(out.sum(), (a, b))] == [x.shape, y.shape]

    def test_broadcast(self, method: Method, backend: Backend) -> None:
        x, y = numbers(0, 4, 1, size(2)), numbers(1, 3, size(1))
        out = gaunt_product(x, y, method=method, backend=backend)
        assert out.shape == (4, 3, size(3))
        one = gaunt_product(x[2, 0], y[1], method=method, backend=backend)
        torch.testing.assert_close(out[2, 1], one, **EXACT)

    def test_derivatives(self, method: Method, backend: Backend) -> None:
        inputs = tuple(t.requires_grad_() for t in (numbers(0, 2, 4), numbers(1, 2, 9), numbers(2, 2), numbers(3, 3),
                                                    numbers(4, 2, 3)))

        def call(x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
            return gaunt_product(x, y, 2, "norm", method, (weights[0], weights[1], weights[2]), backend)

        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)

    @pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
    def test_captured_as_one_graph(self, compiler: str, method: Method, backend: Backend) -> None:
        x, y = numbers(0, 3, size(2)).requires_grad_(), numbers(1, 3, size(2)).requires_grad_()
        weight = numbers(2, 3)

        def call(a: Tensor, b: Tensor) -> Tensor:
            return gaunt_product(a, b, 3, "component", method, (weight, None, None), backend)

        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            found = torch.compile(call, fullgraph=True, backend=compiler)(x, y)
            torch.testing.assert_close(found, call(x, y), **EXACT)
            for a, b in zip(*(torch.autograd.grad(o.sin().sum(), (x, y)) for o in (found, call(x, y))), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def layouts(t: Tensor) -> list[Tensor]:
    """Return the same numbers in different orders in memory."""
    gaps = torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)[..., 0]
    return [t, gaps] if t.ndim == 1 else [t, gaps, t.mT.contiguous().mT]


class TestPower:
    @pytest.mark.parametrize(("l", "nu"), POWERS)
    def test_golden(self, golden: Any, l: int, nu: int, method: Method, backend: Backend) -> None:
        found = golden(f"power_l{l}_nu{nu}")
        for k in range(2, nu + 1):
            for name in ("integral", "component"):
                out = gaunt_power(found["x"], k, normalization=name, method=method, backend=backend)
                torch.testing.assert_close(out, found[f"pow{k}_{name}"], **EXACT)

    @pytest.mark.parametrize(("l", "nu", "l_out"), [(2, 1, 1), (3, 4, 2), (1, 6, 6), (6, 2, 3), (8, 3, 0)])
    def test_cut(self, l: int, nu: int, l_out: int, method: Method, backend: Backend) -> None:
        x = numbers(0, 2, 3, size(l)) / size(l) ** 0.5
        expected = x
        for _ in range(nu - 1):
            expected = gaunt_product(expected, x, method="grid", backend="reference")
        for t in layouts(x):
            out = gaunt_power(t, nu, l_out, method=method, backend=backend)
            torch.testing.assert_close(out, expected[..., : size(l_out)], rtol=0, atol=1e-12)

    def test_derivatives(self, method: Method, backend: Backend) -> None:
        x = numbers(0, 2, size(2)).requires_grad_()
        for nu in (1, 2, 3):
            assert torch.autograd.gradcheck(lambda t, nu=nu: gaunt_power(t, nu, 2, "norm", method, backend), (x,))
            assert torch.autograd.gradgradcheck(lambda t, nu=nu: gaunt_power(t, nu, 2, "norm", method, backend), (x,))

    def test_first_power_is_a_copy(self, method: Method, backend: Backend) -> None:
        x = numbers(0, 2, 9)
        out = gaunt_power(x, 1, method=method, backend=backend)
        out.zero_()
        assert x.any()


class TestMistakes:
    def test_products(self, method: Method, backend: Backend) -> None:
        x, y = numbers(0, 2, 4), numbers(1, 2, 9)
        for arguments, options, words in (
                ((x[:, :3], y), {}, r"x has the shape \(2, 3\)"), ((x, y[:, :0]), {}, "y has the shape"),
                ((x.int(), y), {}, "float32 or float64"), ((x, y.float()), {}, "must be alike"),
                ((x, numbers(1, 3, 9)), {}, "leading sizes"), ((x, y, 4), {}, "l_out=4"), ((x, y, -1), {}, "l_out=-1"),
                ((x, y), {"normalization": "l2"}, "allowed: integral, component, norm"),
                ((x, y), {"weights": (numbers(0, 3), None, None)}, "for each of the 2 degrees"),
                ((x, y), {"backend": "cuda"}, "backend 'cuda' is unknown")):
            with pytest.raises(OptionError, match=words):
                gaunt_product(*arguments, **{"method": method, "backend": backend, **options})
        with pytest.raises(OptionError, match="method 'fft' is unknown; allowed: auto, sparse, grid, fourier"):
            gaunt_product(x, y, method="fft")  # type: ignore[arg-type]

    def test_powers(self, method: Method, backend: Backend) -> None:
        for nu in (0, -1, 64, 2.0, True):
            with pytest.raises(OptionError, match="from 1 to 63"):
                gaunt_power(numbers(0, 2, 4), nu, method=method, backend=backend)  # type: ignore[arg-type]


def test_auto_takes_the_table_where_it_is_small(method: Method, backend: Backend) -> None:
    assert [_fastest(l, l, l, True) for l in (1, 3, 6, 8)] == ["sparse", "sparse", "grid", "grid"]
    assert [_fastest(l, l, l, False) for l in (1, 3)] == ["sparse", "grid"]
    x, y = numbers(0, 2, size(3)), numbers(1, 2, size(3))
    chosen = _fastest(3, 3, 6, backend == "compiled")
    if method == "auto" and backend != "auto":
        assert torch.equal(gaunt_product(x, y, backend=backend), gaunt_product(x, y, method=chosen, backend=backend))

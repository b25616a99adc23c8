"""The published Fourier form of the Gaunt product: golden products and powers, high degrees, derivatives."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops import fourier_power, fourier_product, spherical_harmonics
from mlip.so3.degrees import size

EXACT = {"rtol": 0, "atol": 1e-12}


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def golden(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / "golden" / "gaunt_mace" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype == np.float64}


class TestFourier:
    @pytest.mark.parametrize(("l1", "l2"), [(1, 1), (2, 2), (3, 1), (3, 3), (5, 5)])
    def test_golden_products(self, shared_dir: Path, l1: int, l2: int) -> None:
        data = golden(shared_dir, f"gtp_l{l1}_l{l2}")
        x, y = data["x1"].requires_grad_(), data["x2"].requires_grad_()
        out = fourier_product(x, y)
        torch.testing.assert_close(out, data["out_integral"], **EXACT)
        by_x, by_y = torch.autograd.grad(out, (x, y), data["grad_out"])
        torch.testing.assert_close(by_x, data["grad_x1_integral"], **EXACT)
        torch.testing.assert_close(by_y, data["grad_x2_integral"], **EXACT)

    @pytest.mark.parametrize(("l", "orders"), [(1, 3), (2, 3), (3, 2), (4, 3)])
    def test_golden_powers(self, shared_dir: Path, l: int, orders: int) -> None:
        data = golden(shared_dir, f"power_l{l}_nu{orders}")
        for nu in range(2, orders + 1):
            exact = data[f"pow{nu}_integral"]
            torch.testing.assert_close(fourier_power(data["x"], nu), exact, **EXACT)
            torch.testing.assert_close(fourier_power(data["x"], nu, l), exact[..., : size(l)], **EXACT)

    def test_high_degrees(self) -> None:
        x, y = numbers(0, 2, size(18)), numbers(1, 2, size(17))
        harmonics = spherical_harmonics(numbers(2, 30, 3), 35) / math.sqrt(4 * math.pi)
        exact = (harmonics[:, : size(18)] @ x.T) * (harmonics[:, : size(17)] @ y.T)
        torch.testing.assert_close(harmonics @ fourier_product(x, y).T, exact, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("nu", [1, 4, 5, 6])
    def test_powers(self, nu: int) -> None:
        x = numbers(0, 3, size(2))
        expected = x
        for _ in range(nu - 1):
            expected = fourier_product(expected, x)
        torch.testing.assert_close(fourier_power(x, nu), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))

    def test_derivatives_of_powers(self) -> None:
        x = numbers(0, size(1)).requires_grad_()
        assert torch.autograd.gradcheck(lambda t: fourier_power(t, 3, 1), (x,))
        assert torch.autograd.gradgradcheck(lambda t: fourier_power(t, 3, 1), (x,))
        assert fourier_power(x.float(), 3).dtype == torch.float32
        assert fourier_power(numbers(0, 0, 4), 3).shape == (0, 16)

    def test_power_captured_as_one_graph(self) -> None:
        x = numbers(0, 3, size(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            out = torch.compile(lambda t: fourier_power(t, 4, 2), fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(out, fourier_power(x, 4, 2), **EXACT)

    def test_what_powers_refuse(self) -> None:
        with pytest.raises(OptionError, match="nu=0 is not allowed"):
            fourier_power(numbers(0, 4), 0)
        with pytest.raises(OptionError, match="l_out=4 is out of range"):
            fourier_power(numbers(0, 4), 3, 4)

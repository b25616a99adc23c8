"""Radial functions against their formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mlip.nn.linear import SILU_SCALE
from mlip.nn.radial import AgnesiTransform, BesselBasis, RadialMLP, polynomial_cutoff
from mlip.nn.zbl import ZBLRepulsion

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


class TestCutoff:
    @pytest.mark.parametrize("power", [2, 3, 5, 6])
    def test_falls_from_one_to_zero(self, power: int) -> None:
        r = torch.linspace(0, 6, 601, dtype=torch.float64)
        value = polynomial_cutoff(r, 5.0, power)
        assert value[0] == 1
        assert not value[r >= 5].any()
        inside = value[r < 5]
        assert (inside[1:] <= inside[:-1] + 1e-13).all()

    def test_formula(self) -> None:
        u = 0.37
        expected = 1 - 21 * u**5 + 35 * u**6 - 15 * u**7  # p = 5
        assert float(polynomial_cutoff(torch.tensor(u * 4.0).double(), 4.0, 5)) == pytest.approx(expected, abs=1e-7)

    @pytest.mark.parametrize("power", [3, 5, 8])
    def test_two_derivatives_vanish_at_the_cutoff(self, power: int) -> None:
        r = torch.tensor([5.0 - 1e-9], dtype=torch.float64, requires_grad=True)
        value = polynomial_cutoff(r, 5.0, power)
        (first,) = torch.autograd.grad(value, r, create_graph=True)
        (second,) = torch.autograd.grad(first, r)
        assert abs(value.item()) < 1e-12
        assert abs(first.item()) < 1e-12
        assert abs(float(second)) < 1e-6

    def test_tensor_of_cutoffs(self) -> None:
        r, cutoffs = torch.tensor([1.0, 1.0, 3.0]).double(), torch.tensor([2.0, 4.0, 2.5]).double()
        together = polynomial_cutoff(r, cutoffs, 5)
        alone = torch.stack([polynomial_cutoff(x, float(c), 5) for x, c in zip(r, cutoffs, strict=True)])
        torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_bessel_functions_are_orthonormal() -> None:
    basis = BesselBasis(8, 4.5)
    u, w = np.polynomial.legendre.leggauss(60)
    r = torch.from_numpy(4.5 * (u + 1) / 2)[:, None]
    values = basis(r) * r  # the measure is r^2 dr
    overlap = torch.einsum("rn,rm,r->nm", values, values, torch.from_numpy(w) * 4.5 / 2)
    torch.testing.assert_close(overlap, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(basis(torch.tensor([[4.5]]).double()).abs().max()) < 1e-14


def test_agnesi_transform() -> None:
    transform = AgnesiTransform([0.31, 0.66])
    r = torch.tensor([[0.7], [1.5], [4.0]], dtype=torch.float64)
    out = transform(r, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    for k, (x, radius) in enumerate([(0.7, 0.31), (1.5, 0.485), (4.0, 0.66)]):
        t = x / radius
        assert float(out[k]) == pytest.approx(1 / (1 + 1.0805 * t**0.9183 / (1 + t ** (0.9183 - 4.5791))), rel=1e-14)


def test_radial_network() -> None:
    network = RadialMLP([3, 5, 4]).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    a, b = network.weights
    hidden = x @ a / math.sqrt(3)
    expected = (hidden / (1 + torch.exp(-hidden)) * SILU_SCALE) @ b / math.sqrt(5)
    torch.testing.assert_close(network(x), expected, rtol=1e-14, atol=1e-14)
    assert network(x[:0]).shape == (0, 4)
    linear = RadialMLP([3, 2]).double()
    torch.testing.assert_close(linear(x), x @ linear.weights[0] / math.sqrt(3))


def test_silu_constant() -> None:
    with np.load(REFERENCE / "e3nn044_constants.npz") as file:
        assert float(file["silu_cst"]) == SILU_SCALE
    z, w = np.polynomial.hermite_e.hermegauss(80)
    silu = SILU_SCALE * z / (1 + np.exp(-z))
    assert (w * silu**2).sum() / math.sqrt(2 * math.pi) == pytest.approx(1.0, abs=5e-3)  # e3nn drew samples


class TestZBL:
    def energies(self, r: float) -> torch.Tensor:
        repulsion = ZBLRepulsion((1, 8), [0.31, 0.66], 5)
        distances = torch.tensor([[r], [r]], dtype=torch.float64)
        return repulsion(distances, torch.tensor([0, 1]), torch.tensor([1, 0]))  # H and O, seen from both ends

    def test_formula(self) -> None:
        r = 0.4
        a = 0.4543 * 0.529 / (1 + 8**0.3)
        terms = zip((0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016), strict=True)
        screening = sum(c * math.exp(-k * r / a) for c, k in terms)
        u = r / 0.97
        pair = 14.3996 * 8 / r * screening * (1 - 21 * u**5 + 35 * u**6 - 15 * u**7)
        found = self.energies(r)
        assert float(found.sum()) == pytest.approx(pair, rel=1e-12)
        assert found.tolist() == [pytest.approx(pair / 2), pytest.approx(pair / 2)]

    def test_repels_up_to_the_sum_of_the_radii(self) -> None:
        values = [float(self.energies(r).sum()) for r in (0.1, 0.3, 0.6, 0.9, 0.96999)]
        assert values == sorted(values, reverse=True)
        assert values[-1] > 0
        assert not self.energies(0.97).any()
        assert not self.energies(4.0).any()

"""Spherical harmonics: convention, norms, parity, no singular direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.ops import spherical_harmonics
from mlip.so3.degrees import block

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


class TestHarmonics:
    def test_values_of_e3nn_044(self) -> None:
        with np.load(REFERENCE / "e3nn044_constants.npz") as file:
            found = spherical_harmonics(torch.from_numpy(file["r"]), 6).numpy()
            np.testing.assert_allclose(found, file["Y_component_normalized"], rtol=0, atol=1e-12)

    def test_length_does_not_matter_and_norms(self) -> None:
        v = numbers(0, 50, 3)
        y = spherical_harmonics(v, 6)
        torch.testing.assert_close(spherical_harmonics(1e-3 * v, 6), y, rtol=0, atol=1e-13)
        for l in range(7):
            torch.testing.assert_close(y[:, block(l)].square().sum(1), torch.full((50,), 2.0 * l + 1).double())

    def test_parity(self) -> None:
        v = numbers(0, 20, 3)
        signs = torch.cat([torch.full((2 * l + 1,), (-1.0) ** l) for l in range(7)]).double()
        torch.testing.assert_close(spherical_harmonics(-v, 6), signs * spherical_harmonics(v, 6), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("axis", [(0, 1, 0), (0, -1, 0), (1, 0, 0), (0, 0, -1)])
    def test_no_singular_direction(self, axis: tuple[int, int, int]) -> None:
        v = torch.tensor([axis], dtype=torch.float64, requires_grad=True)
        assert torch.isfinite(spherical_harmonics(v, 6)).all()
        assert torch.autograd.gradcheck(lambda x: spherical_harmonics(x, 4), (v,))
        assert torch.autograd.gradgradcheck(lambda x: spherical_harmonics(x, 4), (v,), fast_mode=True)

    def test_degree_zero(self) -> None:
        assert torch.equal(spherical_harmonics(numbers(0, 3, 3), 0), torch.ones(3, 1, dtype=torch.float64))

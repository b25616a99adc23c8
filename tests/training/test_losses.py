"""Errors that training minimises: their values, and gradients that exist everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.training.losses import LOSSES, known_difference, penalty


def drawn(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


class TestPenalty:
    @pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 9)], ids=str)
    def test_values(self, shape: tuple[int, ...]) -> None:
        d = drawn(*shape)
        a = d.numpy()
        rows = a.reshape(7, -1)
        small = abs(a) <= 0.5
        assert 0 < small.sum() < a.size
        expected = {"mse": np.mean(a**2), "mae": np.mean(abs(a)), "l2": np.mean(np.sqrt((rows**2).sum(axis=1))),
                    "huber": np.mean(np.where(small, a**2 / 2, 0.5 * abs(a) - 0.125))}
        assert set(expected) == set(LOSSES)
        for kind, value in expected.items():
            assert penalty(kind, d, 0.5).item() == pytest.approx(value, rel=1e-14), kind

    @pytest.mark.parametrize("shape", [(7,), (7, 3)], ids=str)
    @pytest.mark.parametrize("kind", LOSSES)
    def test_weights_of_rows(self, kind: str, shape: tuple[int, ...]) -> None:
        d, weights = drawn(*shape), torch.arange(7, dtype=torch.float64)
        alone = torch.stack([penalty(kind, row[None], 0.5) for row in d])
        assert penalty(kind, d, 0.5, weights).item() == pytest.approx((weights * alone).mean().item(), rel=1e-14)

    @pytest.mark.parametrize("kind", LOSSES)
    def test_gradients(self, kind: str) -> None:
        d = drawn(5, 3).requires_grad_(True)
        assert torch.autograd.gradcheck(lambda x: penalty(kind, x, 0.4), d)
        assert torch.autograd.gradgradcheck(lambda x: penalty(kind, x, 0.4), d)

    @pytest.mark.parametrize("kind", LOSSES)
    def test_no_error_has_no_gradient(self, kind: str) -> None:
        """The length of a vector has no derivative at 0; of one exact row among others nothing must become NaN."""
        d = torch.cat([torch.zeros(1, 3), torch.ones(1, 3)]).double().requires_grad_(True)
        penalty(kind, d).backward()
        assert d.grad is not None
        assert d.grad.isfinite().all()
        assert not d.grad[0].any()
        assert d.grad[1].all()

    @pytest.mark.parametrize("kind", LOSSES)
    def test_nothing_to_compare(self, kind: str) -> None:
        d = torch.zeros(0, 9, dtype=torch.float64, requires_grad=True)
        value = penalty(kind, d)
        value.backward()
        assert value.item() == 0.0
        assert d.grad is not None

    def test_lengths_do_not_depend_on_the_orientation(self) -> None:
        d = drawn(6, 3)
        turned = d @ torch.linalg.qr(drawn(3, 3)).Q
        assert penalty("l2", d).item() == pytest.approx(penalty("l2", turned).item(), rel=1e-14)
        assert penalty("mae", d).item() != pytest.approx(penalty("mae", turned).item(), rel=1e-3)

    def test_options(self) -> None:
        with pytest.raises(OptionError, match="loss 'rmse' is unknown; known: mse, mae, l2, huber"):
            penalty("rmse", drawn(3))
        for delta in (0.0, -1.0, math.nan):
            with pytest.raises(OptionError, match="delta must be a positive number"):
                penalty("huber", drawn(3), delta)


class TestKnownDifference:
    def test_only_known_labels_count(self) -> None:
        """A molecule in a batch of crystals: its stress is NaN in the prediction and in the label."""
        prediction = drawn(3, 3, 3)
        prediction[1] = math.nan
        prediction.requires_grad_(True)
        label = torch.zeros(3, 3, 3, dtype=torch.float64)
        label[1:, 0, 0] = math.nan
        found = known_difference(prediction, label)
        torch.testing.assert_close(found, prediction[:1].reshape(1, 9), rtol=0, atol=0)
        penalty("mae", found).backward()
        assert prediction.grad is not None
        assert prediction.grad[0].all()
        assert not prediction.grad[1:].any()

    def test_no_label_is_known(self) -> None:
        prediction = torch.full((2, 3, 3), math.nan, dtype=torch.float64, requires_grad=True)
        found = known_difference(prediction, torch.full((2, 3, 3), math.nan, dtype=torch.float64))
        assert found.shape == (0, 9)
        value = penalty("l2", found)
        value.backward()
        assert value.item() == 0.0
        assert prediction.grad is not None
        assert not prediction.grad.any()

"""The steps of the optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip import Potential
from mlip.graph.labelled import Labelled
from mlip.training import TrainingConfig
from mlip.training.module import TrainingModule
from mlip.training.optimizer import LEAST, MATCHED, MOMENTUM, AdamW, Muon, orthogonal
from mlip.training.plan import Plan

SHAPES = {"stack": (2, LEAST, 20), "tall": (24, LEAST), "few rows": (3, 40), "vector": (7,)}


def random_weights(seed: int) -> dict[str, Tensor]:
    """Return a weight of each shape."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def after_steps(kind: type[AdamW], gradients: list[dict[str, Tensor]], rate: float, decay: float,
                resumed: bool = False) -> dict[str, Tensor]:
    """Return what becomes of weights; `resumed`: by an optimizer for each step, which reads the state of the last."""
    weights = random_weights(0)
    optimizer = kind(weights.values(), decay)
    for gradient in gradients:
        if resumed:
            state, optimizer = optimizer.state_dict(), kind(weights.values(), decay)
            optimizer.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = rate
        for name, weight in weights.items():
            weight.grad = gradient[name].clone()
        optimizer.step()
    return weights


def singular_parts(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix with singular values s replaced by what five steps of the iteration make of s / |matrix|."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s, axis=-1, keepdims=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return np.asarray(u * s[..., None, :] @ vt)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 50), (1, 70, 20)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1e-9
    result = orthogonal(matrices)
    np.testing.assert_allclose(result, singular_parts(matrices.numpy()), atol=1e-12)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.3
    single = orthogonal(matrices.float())
    torch.testing.assert_close(single.double(), result, rtol=0, atol=1e-4)


def test_nothing_to_learn_moves_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(2, 16, 20)), torch.zeros(2, 16, 20))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_three_steps_by_hand(decay: float) -> None:
    rate, gradients = 0.01, [random_weights(seed) for seed in (1, 2, 3)]
    moved, plain, weights = (after_steps(Muon, gradients, rate, decay), after_steps(AdamW, gradients, rate, 0.0),
                             random_weights(0))
    for name in ("few rows", "vector"):
        assert torch.equal(moved[name], plain[name])
    for name in ("stack", "tall"):
        expected, mean = weights[name].numpy(), 0.0
        for gradient in (g[name].numpy() for g in gradients):
            mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient
            direction = singular_parts(MOMENTUM * mean + (1 - MOMENTUM) * gradient)
            expected = (1 - rate * decay) * expected - rate * MATCHED * max(SHAPES[name][-2:]) ** 0.5 * direction
        np.testing.assert_allclose(moved[name], expected, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_steps_are_as_long_as_they_should_be(scale: float) -> None:
    gradient = {name: scale * g for name, g in random_weights(1).items()}
    moved, weights = after_steps(Muon, [gradient], 0.01, 0.0), random_weights(0)
    for name in ("stack", "tall"):
        assert (moved[name] - weights[name]).square().mean().sqrt() == pytest.approx(0.01 * MATCHED, rel=0.2)


def test_weights_without_a_gradient_stay() -> None:
    weights = random_weights(0)
    optimizer = Muon(weights.values(), 0.5)
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    for name, weight in random_weights(0).items():
        assert torch.equal(weights[name], weight)


def test_what_a_batch_does_not_hold_stays() -> None:
    """A matrix of a stack and a row of a matrix have no gradient in some of the steps: as if these had not been."""
    here, there = random_weights(1), random_weights(2)
    for name, empty in (("stack", (1,)), ("tall", (slice(20, 24),))):
        there[name][empty] = 0.0
    gradients = [here, there, there]
    moved = after_steps(Muon, gradients, 0.01, 0.0)
    before = after_steps(Muon, gradients[:1], 0.01, 0.0)
    for name, empty in (("stack", (1,)), ("tall", (slice(20, 24),))):
        assert torch.equal(moved[name][empty], before[name][empty])
        assert not torch.equal(moved[name], before[name])
    again = after_steps(Muon, [here, there, there, random_weights(3)], 0.01, 0.0)
    shorter = after_steps(Muon, [here, random_weights(3)], 0.01, 0.0)
    torch.testing.assert_close(again["stack"][1], shorter["stack"][1], rtol=0, atol=1e-15)


def test_the_state_goes_on() -> None:
    gradients = [random_weights(seed) for seed in range(1, 5)]
    expected, resumed = (after_steps(Muon, gradients, 0.01, 0.0, resumed) for resumed in (False, True))
    for name in SHAPES:
        assert torch.equal(resumed[name], expected[name])


@pytest.mark.parametrize(("name", "kind"), [("muon", Muon), ("adamw", AdamW), (None, AdamW)])
def test_a_model_is_trained_with_what_was_asked_for(name: str | None, kind: type[AdamW], start: Potential,
                                                    examples: list[Labelled]) -> None:
    config = TrainingConfig(optimizer=name, weight_decay=0.25)
    optimizer = TrainingModule(start, config, Plan(config, len(examples), "mace")).configure_optimizers()
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert group["amsgrad"]
    if isinstance(optimizer, Muon):
        assert optimizer.weight_decay == 0.25
        assert 0 < len(optimizer.matrices) < len(group["params"])
    else:
        assert group["weight_decay"] == 0.25

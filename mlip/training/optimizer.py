"""`AdamW`, and `Muon`: matrices of weights take orthogonal steps, all other weights those of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LEAST = 16  # rows and columns of a matrix: vectors, and what is a few of them, are left to AdamW
MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5, repeated, takes all but tiny x to between 0.7 and 1.2
MATCHED = 0.2  # root mean square of a step, in learning rates: that of AdamW (Moonlight, arXiv 2502.16982)


class AdamW(torch.optim.AdamW):
    """AdamW with AMSGrad; the learning rate is 0 until it is set.

    Args:
        weights: what is trained.
        weight_decay: decoupled from the gradient.
    """

    def __init__(self, weights: Iterable[Tensor], weight_decay: float = 0.0) -> None:
        super().__init__(weights, lr=0.0, amsgrad=True, weight_decay=weight_decay, fused=True)


class Muon(AdamW):
    """Muon (Jordan et al., 2024) for matrices, AdamW with AMSGrad for the rest.

    The gradient of a matrix, averaged over steps, is replaced by the nearest orthogonal matrix, so that all directions
    are learned at one speed: those that matter for few structures no slower than those that matter for all. Weights
    [..., a, b] with a, b >= 16 are stacks of matrices (one for each degree, or for each element). Steps are as long as
    those of AdamW, so that learning rates and weight decay mean the same. Their length does not depend on that of the
    gradient, so rows without one, those of elements that a batch does not hold, take none.

    Args:
        weights: what is trained.
        weight_decay: of matrices, decoupled from the gradient. Steps of AMSGrad become short as errors do: what takes
            them would decay to nothing.
    """

    def __init__(self, weights: Iterable[Tensor], weight_decay: float = 0.0) -> None:
        weights = list(weights)
        self.matrices = [weight for weight in weights if weight.ndim > 1 and min(weight.shape[-2:]) >= LEAST]
        super().__init__(weights)
        self.weight_decay = weight_decay

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; gradients of matrices are None afterwards."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._move_matrices()
        super().step()  # passes over weights without a gradient
        return loss

    @torch.no_grad()
    def _move_matrices(self) -> None:
        stacks: dict[tuple[int, ...], list[Tensor]] = {}
        for weight in self.matrices:
            if weight.grad is not None:
                stacks.setdefault(tuple(weight.shape[-2:]), []).append(weight)
        (group,) = self.param_groups
        rate, decay = group["lr"], self.weight_decay
        for shape, weights in stacks.items():
            directions = orthogonal(torch.cat([self._direction(weight).reshape(-1, *shape) for weight in weights]))
            parts = torch.split(directions, [weight.numel() // math.prod(shape) for weight in weights])
            length = rate * MATCHED * max(shape) ** 0.5
            for weight, part in zip(weights, parts, strict=True):
                weight.mul_(1 - rate * decay).sub_(part.reshape(weight.shape), alpha=length)
                weight.grad = None

    def _direction(self, weight: Tensor) -> Tensor:
        """Return the gradient, averaged over steps, and once more with the latest (Nesterov); 0 in rows without any."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())  # AdamW wants one in every state that is read
            state["momentum"] = torch.zeros_like(weight)
        mean: Tensor = state["momentum"]
        seen = (gradient != 0).any(dim=-1, keepdim=True).to(weight.dtype)
        mean.lerp_(gradient, (1 - MOMENTUM) * seen)
        direction: Tensor = gradient.lerp(mean, MOMENTUM) * seen
        return direction


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices with about the same singular vectors and singular values near 1.

    Args:
        matrices: [n, a, b].

    Source: Newton and Schulz's iteration with the coefficients of Jordan et al., https://kellerjordan.github.io/posts/muon.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    result: Tensor = x.mT if tall else x
    return result

"""Radial functions of edges: Bessel basis, smooth cutoff, distance transform, multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from mlip.nn.linear import SILU_SCALE, normal


def polynomial_cutoff(r: Tensor, cutoff: float | Tensor, power: int) -> Tensor:
    """Return a function that falls smoothly from 1 at r = 0 to 0 at the cutoff.

    Two derivatives vanish at the cutoff (Gasteiger et al., ICLR 2020, eq. 8).

    Args:
        r: any shape, A.
        cutoff: A; a tensor is broadcast.
        power: p of the polynomial.
    """
    u = r / cutoff
    p = power
    value = (1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2))
    return value * (u < 1)


class BesselBasis(nn.Module):
    """sqrt(2/rc) sin(k_n r)/r with k_n = n pi/rc (Gasteiger et al., ICLR 2020, eq. 7)."""

    frequencies: Tensor

    def __init__(self, count: int, cutoff: float) -> None:
        super().__init__()
        self.prefactor = sqrt(2.0 / cutoff)
        self.register_buffer("frequencies", torch.arange(1, count + 1, dtype=torch.float64) * pi / cutoff)

    def forward(self, r: Tensor) -> Tensor:
        """Return [E, count] for distances r, [E, 1] in A."""
        return self.prefactor * torch.sin(self.frequencies * r) / r


class AgnesiTransform(nn.Module):
    """Maps distances to 1/(1 + a t^q/(1 + t^(q-p))), t = r / mean covalent radius of the pair."""

    radii: Tensor
    a: Tensor
    q: Tensor
    p: Tensor

    def __init__(self, radii: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("radii", torch.tensor(radii, dtype=torch.float64))
        for name, value in (("a", 1.0805), ("q", 0.9183), ("p", 4.5791)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, r: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Return [E, 1] for r [E, 1] in A and the element indices of both ends, [E]."""
        t = r / (0.5 * (self.radii[senders] + self.radii[receivers])).unsqueeze(-1)
        return 1 / (1 + self.a * t**self.q / (1 + t ** (self.q - self.p)))


class RadialMLP(nn.Module):
    """Layers x W / sqrt(fan-in) with scaled silu between them and no bias."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(normal(a, b)) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return [K, widths[-1]] for x [K, widths[0]]."""
        out: Tensor = self._hidden(x) @ self._last()
        return out

    def _hidden(self, x: Tensor) -> Tensor:
        """Return what the last layer multiplies."""
        for layer in range(len(self.weights) - 1):
            x = nn.functional.silu(x @ self._matrix(layer))
        return x

    def _last(self) -> Tensor:
        return self._matrix(len(self.weights) - 1)

    def _matrix(self, layer: int) -> Tensor:
        """Return the weights of a layer with all constants: it multiplies plain silu."""
        weight: Tensor = self.weights[layer]
        return weight * ((SILU_SCALE if layer else 1.0) / sqrt(weight.shape[0]))

    def evaluate_into(self, x: Tensor, out: Tensor) -> Any:
        """Write `forward(x)` into `out` and return what `differentiate` needs; weights are constants."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            hidden = self._hidden(x)
        torch.mm(hidden.detach(), self._last().detach(), out=out)
        return x, hidden

    def differentiate(self, state: Any, g: Tensor) -> Tensor:
        """Return the derivative by x of what has the derivative `g` by `forward(x)`."""
        x, hidden = state
        dx: Tensor = torch.autograd.grad(hidden, x, g @ self._last().detach().T)[0]
        return dx

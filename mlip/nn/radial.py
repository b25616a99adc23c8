"""Radial functions of edges: Bessel basis, smooth cutoff, distance transform, multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from mlip.nn.linear import SILU_SCALE, normal
from mlip.nn.merged import Merged


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
        self.merged = Merged()

    def forward(self, x: Tensor) -> Tensor:
        """Return [K, widths[-1]] for x [K, widths[0]]."""
        *hidden, last = self.merged(_with_constants, *self.weights)
        for matrix in hidden:
            x = nn.functional.silu(x @ matrix)
        return torch.mm(x, last)

    def evaluate_into(self, x: Tensor, out: Tensor) -> Any:
        """Write `forward(x)` into `out` and return what `differentiate` needs; weights are constants."""
        *hidden, last = self.merged(_with_constants, *self.weights)
        before = []
        for matrix in hidden:
            before.append(x @ matrix)
            x = nn.functional.silu(before[-1])
        torch.mm(x, last, out=out)
        return before

    def differentiate(self, before: Any, g: Tensor) -> Tensor:
        """Return the derivative by x of what has the derivative `g` by `forward(x)`."""
        *hidden, last = self.merged(_with_constants, *self.weights)
        g = g @ last.T
        for x, matrix in zip(reversed(before), reversed(hidden), strict=True):
            g = torch.ops.aten.silu_backward(g, x) @ matrix.T
        return g


def _with_constants(*weights: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices of all layers with all constants: they multiply plain silu."""
    return tuple(weight * ((SILU_SCALE if layer else 1.0) / sqrt(weight.shape[0]))
                 for layer, weight in enumerate(weights))

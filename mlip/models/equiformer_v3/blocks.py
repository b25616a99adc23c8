"""Parts of EquiformerV3 that act on atoms or on distances alone: linear maps, norm, radial networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from mlip.nn.linear import normal
from mlip.ops.sphere_tables import component_degrees

NORM_EPS = 1e-5


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return a parameter drawn from the interval of +- 1/sqrt(fan_in), float32."""
    return nn.Parameter((2 * torch.rand(*shape, dtype=torch.float32) - 1) / fan_in**0.5)


def constant(module: nn.Module) -> bool:
    """Return whether the weights of a module may be taken for constants: none is trained, no graph is captured."""
    return not torch.compiler.is_compiling() and not any(p.requires_grad for p in module.parameters())


class DegreeMap(nn.Module):
    """One matrix for each degree, the same for all its orders, and a bias for degree 0."""

    def __init__(self, lmax: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = uniform(lmax + 1, outputs, inputs, fan_in=inputs)
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, (lmax+1)^2, outputs] for x [N, (lmax+1)^2, inputs]."""
        return map_degrees(x, self.weight, self.bias)


def map_degrees(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x [N, (lmax+1)^2, inputs] times weight[l] [outputs, inputs] for each degree, plus a bias for degree 0."""
    degrees = torch.split(x, [2 * l + 1 for l in range(len(weight))], dim=1)
    parts = [linear(part.flatten(0, 1), matrix, None if l else bias)
             for l, (part, matrix) in enumerate(zip(degrees, weight.unbind(), strict=True))]
    return torch.cat([part.view(len(x), 2 * l + 1, weight.shape[1]) for l, part in enumerate(parts)], dim=1)


def gated(x: Tensor, gate: Tensor, degrees: Tensor) -> Tensor:
    """Return x [N, K, C] with silu on the first component, of degree 0, and a sigmoid times the others.

    Args:
        x: [N, K, C].
        gate: [N, lmax * C], for each degree from 1 on.
        degrees: [K - 1] int64, of the other components.
    """
    factors = torch.sigmoid(gate).view(len(x), gate.shape[1] // x.shape[2], x.shape[2])
    scalars, others = x.tensor_split([1], dim=1)
    return torch.cat([silu(scalars), others * factors[:, degrees - 1]], dim=1)


class MergedLayerNorm(nn.Module):
    """Divides the features of an atom by one number, the root mean square over degrees, orders and channels."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.weight = nn.Parameter(torch.ones(lmax + 1, channels, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape; the mean of degree 0 is taken off first."""
        degree = component_degrees(self.lmax, x)
        scalars, others = x.tensor_split([1], dim=1)
        x = torch.cat([scalars - scalars.mean(dim=-1, keepdim=True), others], dim=1)
        share = 1 / ((self.lmax + 1) * (2 * degree + 1).to(x))  # of each component in the mean over degrees
        variance = (x.square().mean(dim=-1) @ share)[:, None, None]
        scalars, others = (x * torch.rsqrt(variance + NORM_EPS) * self.weight[degree]).tensor_split([1], dim=1)
        return torch.cat([scalars + self.bias, others], dim=1)


class RadialNetwork(nn.Module):
    """Three linear maps with layer norms and silu between, of the radial basis and embeddings of both elements."""

    def __init__(self, elements: int, num_gaussians: int, width: int, outputs: int) -> None:
        super().__init__()
        self.source = nn.Parameter(normal(elements, width))
        self.target = nn.Parameter(normal(elements, width))
        self.hidden_1 = nn.Linear(num_gaussians + 2 * width, width, dtype=torch.float32)
        self.norm_1 = nn.LayerNorm(width, dtype=torch.float32)
        self.hidden_2 = nn.Linear(width, width, dtype=torch.float32)
        self.norm_2 = nn.LayerNorm(width, dtype=torch.float32)
        self.output = nn.Linear(width, outputs, dtype=torch.float32)

    def hidden(self, basis: Tensor, ends: Tensor) -> Tensor:
        """Return what the last map multiplies, [R, width], for the radial basis [R, n] and both elements [2, R].

        The first map acts on the element embeddings before they are looked up.
        """
        count, width = basis.shape[1], self.source.shape[1]
        by_basis, by_source, by_target = torch.split(self.hidden_1.weight, [count, width, width], dim=1)
        source, target = linear(self.source, by_source, self.hidden_1.bias), linear(self.target, by_target)
        x = linear(basis, by_basis) + source[ends[0]] + target[ends[1]]
        x = silu(self._normed(x, self.norm_1))
        return silu(self._normed(self.hidden_2(x), self.norm_2))

    def forward(self, basis: Tensor, ends: Tensor) -> Tensor:
        """Return [R, outputs]."""
        out: Tensor = self.output(self.hidden(basis, ends))
        return out

    @staticmethod
    def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, NORM_EPS)



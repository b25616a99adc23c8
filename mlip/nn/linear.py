"""Linear maps of equivariant features [N, (l m), channels]."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mlip.so3.degrees import block, degree_of_component

SILU_SCALE = 1.6791767923989418
"""Makes silu keep the second moment of a normal variable: the constant e3nn drew and MACE weights contain."""


def normal(*shape: int) -> Tensor:
    """Return standard normal numbers for initial weights, the same ones for any default dtype of torch."""
    return torch.randn(*shape, dtype=torch.float32)


class DegreeLinear(nn.Module):
    """One channel-mixing matrix for each degree, divided by the root of the fan-in."""

    degree: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(lmax + 1, channels, channels))
        self.register_buffer("degree", torch.tensor(degree_of_component(lmax)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        matrices = (self.weight / sqrt(self.weight.shape[1])).index_select(0, self.degree)
        return torch.bmm(x.transpose(0, 1), matrices).transpose(0, 1)


class PathLinear(nn.Module):
    """Mixes the paths and channels of an edge convolution into one set of channels for each degree."""

    def __init__(self, paths_per_degree: list[int], channels: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(normal(count * channels, channels)) for count in paths_per_degree)

    def forward(self, messages: list[Tensor], scale: float = 1.0) -> Tensor:
        """Return scale times the map, [N, (lmax+1)^2, C], of messages[l], [N, 2l+1, P(l), C]."""
        mixed = [x.flatten(2) @ (weight * (scale / sqrt(weight.shape[0])))
                 for x, weight in zip(messages, self.weights, strict=True)]
        return torch.cat(mixed, dim=1)

    def transposed(self, g: Tensor, scale: float = 1.0) -> Tensor:
        """Return scale times the transposed map of g [N, (lmax+1)^2, C]: all messages[l], flattened and joined."""
        parts = [torch.mm(g[:, block(l)].flatten(0, 1), (weight * (scale / sqrt(weight.shape[0]))).T)
                 for l, weight in enumerate(self.weights)]
        return torch.cat([part.view(-1) for part in parts])


class ElementLinear(nn.Module):
    """One channel-mixing matrix for each element and degree, divided by the root of elements x channels."""

    def __init__(self, elements: int, lmax: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(elements, lmax + 1, channels, channels))

    def forward(self, x: Tensor, elements: Tensor) -> Tensor:
        """Return [N, (lmax+1)^2, C] from x, of which degrees above lmax are ignored, and elements [N]."""
        count, degrees, channels, _ = self.weight.shape
        weight = self.weight / sqrt(count * channels)
        x = x[:, : degrees**2]
        out = torch.zeros_like(x)
        for z in torch.unique(elements).tolist():
            atoms = torch.nonzero(elements == z).squeeze(-1)
            rows = x.index_select(0, atoms)
            mixed = torch.cat([rows[:, block(l)] @ weight[z, l] for l in range(degrees)], dim=1)
            out = out.index_copy(0, atoms, mixed)
        return out

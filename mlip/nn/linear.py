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
        matrices = (self.weight / sqrt(count * channels)).unbind()
        order = torch.argsort(elements)
        rows = x[:, : degrees**2].index_select(0, order)
        parts = torch.split(rows, torch.bincount(elements, minlength=count).tolist())
        mixed = [_by_degree(part, matrix) for part, matrix in zip(parts, matrices, strict=True) if len(part)]
        return torch.cat(mixed or [rows]).index_select(0, torch.argsort(order))


def _by_degree(x: Tensor, matrices: Tensor) -> Tensor:
    """Return [n, (lmax+1)^2, C] for x of the same shape and one matrix for each degree, [lmax+1, C, C]."""
    if len(matrices) == 1:
        return x @ matrices[0]
    pieces = torch.split(x, [2 * l + 1 for l in range(len(matrices))], dim=1)
    return torch.cat([piece @ matrix for piece, matrix in zip(pieces, matrices.unbind(), strict=True)], dim=1)

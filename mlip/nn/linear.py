"""Linear maps of equivariant features [N, (l m), channels]."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mlip.nn.merged import Merged
from mlip.ops import Backend, Rows, degree_linear, joined, use_compiled
from mlip.so3.degrees import degree_of_component, size

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
        self.merged = Merged()
        self.rows = Rows((channels,) * (lmax + 1), size(lmax))
        self.register_buffer("degree", torch.tensor(degree_of_component(lmax)), persistent=False)

    def forward(self, x: Tensor, backend: Backend = "auto") -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        if _compiled(backend, x, self.weight):
            return degree_linear(x, self.merged(self._joined, self.weight), self.rows, self.rows).view_as(x)
        matrices = self._scaled(self.weight).index_select(0, self.degree)
        return torch.bmm(x.transpose(0, 1), matrices).transpose(0, 1)

    def _scaled(self, weight: Tensor) -> Tensor:
        return weight / sqrt(weight.shape[1])

    def _joined(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return joined([matrix.unsqueeze(0) for matrix in self._scaled(weight)])


class PathLinear(nn.Module):
    """Mixes the paths and channels of an edge convolution into one set of channels for each degree."""

    def __init__(self, paths_per_degree: list[int], channels: int, scale: float = 1.0) -> None:
        """Make weights for paths_per_degree[l] messages of each degree; the result is multiplied by `scale`."""
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(normal(count * channels, channels)) for count in paths_per_degree)
        self.scale = scale
        self.merged = Merged()
        self.messages = Rows(tuple(count * channels for count in paths_per_degree))
        self.rows = Rows((channels,) * len(paths_per_degree), size(len(paths_per_degree) - 1))

    def forward(self, messages: list[Tensor]) -> Tensor:
        """Return [N, (lmax+1)^2, C] for messages[l], [N, 2l+1, P(l), C]."""
        mixed = [x.flatten(2) @ weight for x, weight in zip(messages, self._scaled(*self.weights), strict=True)]
        return torch.cat(mixed, dim=1)

    def joined(self, messages: Tensor) -> Tensor:
        """Return the same for all messages, flattened and joined: by the kernels, for weights that are constants."""
        mixed = degree_linear(messages, self.merged(self._joined, *self.weights), self.messages, self.rows)
        return mixed.view(-1, len(self.weights) ** 2, self.rows.channels[0])

    def transposed(self, g: Tensor) -> Tensor:
        """Return the map of `joined` transposed: [numbers of all messages] for g [N, (lmax+1)^2, C]."""
        forward, backward = self.merged(self._joined, *self.weights)
        return degree_linear(g, (backward, forward), self.rows, self.messages)

    def _scaled(self, *weights: Tensor) -> list[Tensor]:
        return [weight * (self.scale / sqrt(weight.shape[0])) for weight in weights]

    def _joined(self, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return joined([weight.unsqueeze(0) for weight in self._scaled(*weights)])


class ElementLinear(nn.Module):
    """One channel-mixing matrix for each element and degree, divided by the root of elements x channels."""

    def __init__(self, elements: int, lmax: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(elements, lmax + 1, channels, channels))
        self.merged = Merged()

    def forward(self, x: Tensor, elements: Tensor, backend: Backend = "auto") -> Tensor:
        """Return [N, (lmax+1)^2, C] from x, of which degrees above lmax are ignored, and elements [N]."""
        count, degrees, channels, _ = self.weight.shape
        if _compiled(backend, x, self.weight):
            rows, out = Rows((channels,) * degrees, x.shape[1]), Rows((channels,) * degrees, degrees**2)
            mixed = degree_linear(x, self.merged(self._joined, self.weight), rows, out, elements)
            return mixed.view(len(x), degrees**2, channels)
        matrices = self._scaled(self.weight).unbind()
        order = torch.argsort(elements)
        sorted_x = x[:, : degrees**2].index_select(0, order)
        parts = torch.split(sorted_x, torch.bincount(elements, minlength=count).tolist())
        pieces = [_by_degree(part, matrix) for part, matrix in zip(parts, matrices, strict=True) if len(part)]
        return torch.cat(pieces or [sorted_x]).index_select(0, torch.argsort(order))

    def _scaled(self, weight: Tensor) -> Tensor:
        return weight / sqrt(weight.shape[0] * weight.shape[2])

    def _joined(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return joined([*self._scaled(weight).unbind(1)])


def _compiled(backend: Backend, x: Tensor, weight: Tensor) -> bool:
    return not weight.requires_grad and use_compiled(backend, x)
def _by_degree(x: Tensor, matrices: Tensor) -> Tensor:
    """Return [n, (lmax+1)^2, C] for x of the same shape and one matrix for each degree, [lmax+1, C, C]."""
    if len(matrices) == 1:
        return x @ matrices[0]
    pieces = torch.split(x, [2 * l + 1 for l in range(len(matrices))], dim=1)
    return torch.cat([piece @ matrix for piece, matrix in zip(pieces, matrices.unbind(), strict=True)], dim=1)

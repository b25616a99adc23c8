"""What TransIP knows of the edges: vectors, biases of the attention, and what is around each atom."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mlip.graph import AtomGraph
from mlip.models.transip.blocks import Linear
from mlip.models.transip.config import TransIPConfig
from mlip.nn.linear import normal
from mlip.ops import Backend, Edges, edge_convolution, spherical_harmonics
from mlip.so3.degrees import Paths

LMAX = 1  # of the harmonics of what is around an atom
FADED = 0.01, 0.995  # of the switch: beyond, its logarithm is constant, -1e-27 and -127


@dataclass(frozen=True)
class Neighbourhood:
    """What the layers know of the edges.

    Attributes:
        edges: E edges.
        vectors: [E, 3], A.
        biases: [layers, E, H], added to the logits.
    """

    edges: Edges
    vectors: Tensor
    biases: Tensor


def whole_molecule(graph: AtomGraph, config: TransIPConfig, dtype: torch.dtype) -> Neighbourhood:
    """Return the neighbourhood of mode `"paper"`, which has no biases."""
    vectors = graph.vectors(dtype)
    none = vectors.new_zeros(len(vectors), config.num_heads).expand(config.num_layers, -1, -1)
    return Neighbourhood(graph.edges(), vectors, none)


class Surroundings(nn.Module):
    """The neighbourhood of mode `"md"`; the two edges of a pair share what depends on their distance.

    The biases are radial functions, for each layer and head, and the logarithm of the switch. Atoms begin with what is
    around them, the sums over neighbours of elements times radial functions times harmonics of degree 0 and 1: weights
    of attention add up to one, and without these sums it is hard to count neighbours and to measure bonds.
    """

    def __init__(self, config: TransIPConfig) -> None:
        super().__init__()
        c, self.config = config.channels // 4 or 1, config
        layers = config.num_layers * config.num_heads
        self.paths = Paths(tuple((0, l, l) for l in range(LMAX + 1)))
        self.bias = nn.Parameter(normal(config.num_gaussians, layers) / sqrt(config.num_gaussians))
        self.elements = nn.Parameter(normal(len(config.atomic_numbers), c))
        self.radial = Linear(config.num_gaussians, (LMAX + 1) * c)
        self.output = Linear((LMAX + 1) ** 2 * c, config.channels)

    def forward(self, graph: AtomGraph, elements: Tensor, backend: Backend) -> tuple[Neighbourhood, Tensor]:
        """Return the neighbourhood, and what is around each atom [N, C]; elements [N] are indices."""
        c, vectors, edges = self.config, graph.vectors(self.bias.dtype), graph.edges()
        r = torch.linalg.vector_norm(vectors[graph.pair_edge], dim=1)
        basis, fading = gaussians(r, c.cutoff, c.num_gaussians), log_switch(r, c.cutoff, c.switch_width).unsqueeze(1)
        biases = (basis @ self.bias + fading).view(len(r), c.num_layers, c.num_heads).transpose(0, 1)
        weights = self.radial(basis * torch.exp(fading)).view(len(r), LMAX + 1, self.elements.shape[1])
        harmonics = spherical_harmonics(vectors, LMAX, backend)
        sums = edge_convolution(self.elements[elements].unsqueeze(1), harmonics, weights, edges, self.paths, backend)
        flat = torch.cat([part.flatten(1) for part in sums], dim=1) / sqrt(c.avg_num_neighbors)
        around: Tensor = self.output(flat)
        return Neighbourhood(edges, vectors, biases[:, graph.pair]), around


def log_switch(r: Tensor, cutoff: float, width: float) -> Tensor:
    """Return the logarithm of a switch that falls from 1 at cutoff - width to 0 at the cutoff, infinitely smooth.

    The switch is [1 + tanh(cot(pi x))] / 2 with x = (r - cutoff + width) / width, as in PET (arXiv 2305.19302). Where
    it is below 1e-55, its logarithm is constant: it makes no number there, and infinite ones must not arise.

    Args:
        r: any shape, A.
        cutoff: A.
        width: A.
    """
    x = ((r - (cutoff - width)) / width).clamp(*FADED)
    cot = torch.cos(pi * x) / torch.sin(pi * x)  # 1 / tan and logsigmoid would lose the digits of second derivatives
    return -softplus(-2 * cot, threshold=40.0)


def gaussians(r: Tensor, cutoff: float, count: int) -> Tensor:
    """Return Gaussians around equidistant centres from 0 to the cutoff, twice as wide as these are apart.

    Args:
        r: [E], A.
        cutoff: A.
        count: number of functions.

    Returns:
        [E, count].
    """
    spacing = cutoff / (count - 1)
    centres = torch.arange(count, dtype=r.dtype, device=r.device) * spacing
    return torch.exp(-0.5 * ((r.unsqueeze(1) - centres) / (2 * spacing)).square())

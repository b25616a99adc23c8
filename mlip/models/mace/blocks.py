"""The layers of MACE: interaction, product, readout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from mlip.models.mace.config import MACEConfig
from mlip.nn.convolution import Block, Layer, radial_convolution
from mlip.nn.linear import SILU_SCALE, DegreeLinear, ElementLinear, PathLinear, normal
from mlip.nn.merged import Merged
from mlip.nn.radial import RadialMLP
from mlip.ops import Backend, Edges, symmetric_contraction
from mlip.so3.degrees import Paths
from mlip.so3.symmetric_power import symmetric_basis


@dataclass(frozen=True)
class Neighbours:
    """What all layers see of the edges.

    Attributes:
        edges: E edges; rows of radial functions are pairs of atoms.
        blocks: the same edges, cut into blocks of receivers.
        harmonics: [E, (edge_lmax+1)^2].
        radial: radial functions, [pairs, num_bessel].
    """

    edges: Edges
    blocks: Sequence[Block]
    harmonics: Tensor
    radial: Tensor

    def sum_on_receivers(self, values: Tensor) -> Tensor:
        """Return [N, ...], the sum over the edges of each receiver of the values of their pairs, [pairs, ...]."""
        out = values.new_zeros(self.edges.offsets.shape[0] - 1, *values.shape[1:])
        return out.index_add(0, self.edges.receiver, values[self.edges.row])


class Interaction(nn.Module):
    """Messages from neighbours: linear, edge convolution, linear, normalisation.

    The four kinds differ in two respects. Residual kinds send the features past the layer through an
    element-wise linear map (the skip); the others apply that map to the messages instead. Density kinds
    divide by 1 + sum of a learned positive density over the neighbours, the others by a constant.
    """

    def __init__(self, config: MACEConfig, layer: int) -> None:
        super().__init__()
        kind = config.layer_interaction(layer)
        lmax_in = 0 if layer == 0 else config.layer_lmax(layer - 1)
        self.residual, density = kind.endswith("residual"), kind.startswith("density")
        self.paths = Paths.all(lmax_in, config.edge_lmax, config.edge_lmax, config.gaunt_convolution)
        elements = len(config.atomic_numbers)
        skip_lmax = min(lmax_in, config.layer_lmax(layer)) if self.residual else config.edge_lmax
        self.linear_up = DegreeLinear(lmax_in, config.channels)
        self.radial = RadialMLP([config.num_bessel, *config.radial_mlp, self.paths.weights * config.channels])
        scale = 1.0 if density else 1 / config.avg_num_neighbors
        self.linear = PathLinear([*self.paths.slots.values()], config.channels, scale)
        self.skip = ElementLinear(elements, skip_lmax, config.channels)
        self.density = RadialMLP([config.num_bessel, 1]) if density else None

    def forward(self, features: Tensor, neighbours: Neighbours, elements: Tensor,
                backend: Backend) -> tuple[Tensor, Tensor | None]:
        """Return messages [N, (edge_lmax+1)^2, C] and, for residual kinds, the skip [N, (l+1)^2, C]."""
        skip = self.skip(features, elements, backend) if self.residual else None
        layer = Layer(self.radial, self.linear, self.paths, neighbours.edges, neighbours.blocks)
        messages = radial_convolution(self.linear_up(features, backend), neighbours.harmonics, neighbours.radial, layer,
                                      backend)
        if self.density is not None:
            density = torch.tanh(self.density(neighbours.radial) ** 2)
            messages = messages / (neighbours.sum_on_receivers(density) + 1).unsqueeze(-1)
        if skip is None:
            messages = self.skip(messages, elements, backend)
        return messages, skip


class Product(nn.Module):
    """Many-body features: symmetric contraction of the messages, linear, skip added."""

    def __init__(self, config: MACEConfig, layer: int) -> None:
        super().__init__()
        self.lmax_in, self.orders = config.edge_lmax, config.correlation
        self.lmax_out = config.layer_lmax(layer)
        self.weights = nn.ParameterList()
        for l in range(self.lmax_out + 1):
            for nu in range(1, self.orders + 1):
                count = symmetric_basis(self.lmax_in, nu, l).coefficients.shape[1]
                weight = normal(len(config.atomic_numbers), count, config.channels) / max(count, 1)
                self.weights.append(nn.Parameter(weight))
        self.linear = DegreeLinear(self.lmax_out, config.channels)

    def forward(self, messages: Tensor, skip: Tensor | None, elements: Tensor, backend: Backend) -> Tensor:
        """Return the features after the layer, [N, (lmax_out+1)^2, C]."""
        flat = list(self.weights)
        weights = [flat[l * self.orders : (l + 1) * self.orders] for l in range(self.lmax_out + 1)]
        product = symmetric_contraction(messages, weights, elements, self.lmax_in, backend)
        return add_skip(self.linear(product, backend), skip)


def add_skip(features: Tensor, skip: Tensor | None) -> Tensor:
    """Return features [N, (L+1)^2, C] plus the skip [N, (l+1)^2, C], if there is one; l is at most L."""
    if skip is None:
        return features
    return features + nn.functional.pad(skip, (0, 0, 0, features.shape[1] - skip.shape[1]))


class LinearReadout(nn.Module):
    """Energy of each atom and head, linear in the scalars."""

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(config.channels, len(config.heads)))

    def forward(self, features: Tensor, head: Tensor) -> Tensor:
        """Return [N] for features [N, (l m), C] and the head of each atom [N]."""
        return _of_head(features[:, 0] @ (self.weight / sqrt(self.weight.shape[0])), head)


class NonLinearReadout(nn.Module):
    """Energy of each atom through one hidden layer; each head has hidden units of its own."""

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        heads = len(config.heads)
        self.hidden = nn.Parameter(normal(heads, config.channels, config.readout_width))
        self.output = nn.Parameter(normal(heads, config.readout_width))
        self.merged = Merged()

    def forward(self, features: Tensor, head: Tensor) -> Tensor:
        """Return [N] for features [N, (l m), C] and the head of each atom [N]."""
        hidden, output = self.merged(_of_all_heads, self.hidden, self.output)
        return _of_head(nn.functional.silu(features[:, 0] @ hidden) @ output, head)


def _of_all_heads(hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices [C, H w] and [H w, H] of all heads, with all constants."""
    heads, channels, width = hidden.shape
    scaled = output * (SILU_SCALE / sqrt(heads * width))
    return hidden.permute(1, 0, 2).flatten(1) / sqrt(channels), torch.block_diag(*scaled).T  # type: ignore[no-untyped-call]


def _of_head(energies: Tensor, head: Tensor) -> Tensor:
    """Return [N] of energies [N, H] of all heads."""
    return energies.squeeze(1) if energies.shape[1] == 1 else energies.gather(1, head.unsqueeze(1)).squeeze(1)

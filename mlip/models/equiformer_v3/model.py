"""EquiformerV3: atoms -> embeddings of elements and neighbourhoods -> (attention, feed-forward) x layers -> heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel
from mlip.models.equiformer_v3.attention import GraphAttention
from mlip.models.equiformer_v3.blocks import MergedLayerNorm, RadialNetwork
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.models.equiformer_v3.feed_forward import FeedForward
from mlip.models.equiformer_v3.heads import EnergyHead
from mlip.models.equiformer_v3.neighbourhood import Neighbourhood, neighbourhood
from mlip.nn.linear import normal
from mlip.ops import Backend, Edges, edge_convolution
from mlip.so3.degrees import Paths


def atoms_of(graph: AtomGraph, like: Tensor) -> Tensor:
    """Return the number of atoms of each structure, [B], in the precision of `like`."""
    return like.new_zeros(graph.num_structures).index_add(0, graph.batch, like.new_ones(graph.num_atoms))


class Block(nn.Module):
    """Attention and feed-forward network, each behind a norm and added to its input."""

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__()
        self.norm_1 = MergedLayerNorm(config.lmax, config.channels)
        self.attention = GraphAttention(config, config.channels)
        self.norm_2 = MergedLayerNorm(config.lmax, config.channels)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, edges: Neighbourhood, backend: Backend) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        x = x + self.attention(self.norm_1(x), edges, backend)
        out: Tensor = x + self.feed_forward(self.norm_2(x), backend)
        return out


class EquiformerV3(EnergyModel):
    """EquiformerV3 (arXiv 2604.09130); see `EquiformerV3Config`."""

    checked_edges: ClassVar[int] = 200
    config: EquiformerV3Config
    scale: Tensor
    shift: Tensor
    offset: Tensor

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__()
        self.config = config
        c, elements = config, len(config.atomic_numbers)
        self._register_elements(torch.zeros(1, elements))
        self.embedding = nn.Parameter(normal(elements, c.channels))
        self.edge_embedding = RadialNetwork(elements, c.num_gaussians, c.edge_channels, (c.lmax + 1) * c.channels)
        self.paths = Paths(tuple((0, l, l) for l in range(c.lmax + 1)))  # from elements to what is around
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.norm = MergedLayerNorm(c.lmax, c.channels)
        self.energy = EnergyHead(c)
        for name, value in (("scale", 1.0), ("shift", 0.0), ("offset", 0.0)):
            self.register_buffer(name, torch.full((1,), value, dtype=torch.float32))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the energy head."""
        return self.energy.parameters()

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV.

        `scale` times the output of the network plus `shift`, and the share of the atom in `offset`, a constant of each
        structure.
        """
        return self.energies(graph, self.features(graph, self.neighbourhood(graph)))

    def neighbourhood(self, graph: AtomGraph) -> Neighbourhood:
        """Return what the layers know of the edges."""
        return neighbourhood(graph, self.element_index(graph.numbers), self.config, self.dtype, self.backend)

    def features(self, graph: AtomGraph, edges: Neighbourhood) -> Tensor:
        """Return the normalised features behind the last block, [N, (lmax+1)^2, C]."""
        return self._behind_blocks(self.embed(self.element_index(graph.numbers), edges), edges)

    def _behind_blocks(self, x: Tensor, edges: Neighbourhood) -> Tensor:
        for block in self.blocks:
            x = block(x, edges, self.backend)
        out: Tensor = self.norm(x)
        return out

    def energies(self, graph: AtomGraph, features: Tensor) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV, from the last features."""
        share = self.offset / atoms_of(graph, features)[graph.batch]
        energy: Tensor = self.scale * self.energy(features) + self.shift + share
        return energy

    def embed(self, elements: Tensor, edges: Neighbourhood) -> Tensor:
        """Return the features before the first block, [N, (lmax+1)^2, C], of the element and what is around."""
        c = self.config
        weights = self.edge_embedding(edges.basis, edges.ends).view(len(edges.basis), c.lmax + 1, c.channels)
        ones = weights.new_ones(1, 1, c.channels)
        sent = Edges(torch.zeros_like(edges.sender), edges.receiver, edges.offsets, edges.row)
        around = edge_convolution(ones, edges.harmonics, weights, sent, self.paths, self.backend)
        x = torch.cat([part[:, :, 0] for part in around], dim=1)
        scalars, others = x.tensor_split([1], dim=1)
        return torch.cat([scalars + self.embedding[elements].unsqueeze(1), others], dim=1)

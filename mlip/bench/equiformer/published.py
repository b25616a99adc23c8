"""EquiformerV3 evaluated step by step as its paper and code do it (arXiv 2604.09130), with our weights.

A plain port of the algorithm, to be timed beside ours: dense Wigner matrices of every edge, radial weights before the
rotation, products and the feed-forward network on the points of a grid (14 x 8 and 14 x 14 at the released size),
nothing shared between edges, and every intermediate kept for the backward pass. Only the frames of the edges are ours,
which have no singular direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from mlip.bench.equiformer.published_parts import (
    NORM_EPS,
    GridFeedForward,
    StackedSO2Linear,
    grid_matrices,
    kept_components,
    lost_norm,
    map_components,
    merged_norm,
    radial_weights,
)
from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel
from mlip.models.equiformer_v3 import EquiformerV3
from mlip.models.equiformer_v3.attention import GraphAttention
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.models.equiformer_v3.model import Block
from mlip.models.equiformer_v3.neighbourhood import gaussians
from mlip.nn.radial import polynomial_cutoff
from mlip.ops.backend import Backend
from mlip.ops.wigner import from_polar_axis, wigner_matrices
from mlip.so3.degrees import degree_of_component, size


@dataclass(frozen=True)
class DenseEdges:
    """What the layers know of E edges; S = (lmax+1)^2 components, K of them kept.

    Attributes:
        sender: [E] int64.
        receiver: [E] int64.
        ends: [2, E] int64, elements of sender and receiver.
        basis: [E, num_gaussians].
        envelope: [E, 1].
        wigner: [E, K, S], into the frames.
        inverse: [E, S, K], back, with the norm that left-out orders take away.
    """

    sender: Tensor
    receiver: Tensor
    ends: Tensor
    basis: Tensor
    envelope: Tensor
    wigner: Tensor
    inverse: Tensor


class DenseAttention(nn.Module):
    """Graph attention over all edges at once."""

    to_grid: Tensor
    from_grid: Tensor
    degree: Tensor

    def __init__(self, ours: GraphAttention, config: EquiformerV3Config) -> None:
        super().__init__()
        self.ours, self.config = ours, config
        self.first, self.second = StackedSO2Linear(ours.first), StackedSO2Linear(ours.second)
        to, back = grid_matrices(config.lmax, config.mmax)
        self.register_buffer("to_grid", to.to(ours.alpha_weight.dtype))
        self.register_buffer("from_grid", back.to(ours.alpha_weight.dtype))
        self.register_buffer("degree", torch.tensor(degree_of_component(config.lmax)))

    def forward(self, x: Tensor, edges: DenseEdges) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        c, w = self.config, self.ours
        both = torch.cat([x[edges.sender], x[edges.receiver]], dim=2)
        radial = radial_weights(w.radial, edges.basis, *edges.ends).view(len(both), c.lmax + 1, -1)
        messages = torch.bmm(edges.wigner, both * radial.index_select(1, self.degree))
        scalars, hidden = self.first(messages)
        alpha, signal, gate = scalars.split([c.num_heads * c.attention_alpha, 2 * c.attention_hidden,
                                             c.attention_hidden], dim=1)
        _, values = self.second(self.activate(hidden, signal, gate))
        weights = self.softmax(self.logits(alpha), edges, len(x))
        weighted = (values.view(*values.shape[:2], c.num_heads, -1) * weights[:, None, :, None]).flatten(2)
        turned = torch.bmm(edges.inverse, weighted)
        summed = turned.new_zeros(len(x), *turned.shape[1:]).index_add(0, edges.receiver, turned)
        return map_components(summed, w.project.weight, w.project.bias, self.degree)

    def activate(self, x: Tensor, scalars: Tensor, gate: Tensor) -> Tensor:
        """Return hidden components [E, K, h] for both factors [E, K, 2h], scalars [E, 2h] and gates [E, h]."""
        first, second = torch.einsum("pk,ekc->epc", self.to_grid, x).chunk(2, dim=2)
        product = torch.einsum("kp,epc->ekc", self.from_grid, first * second) * torch.sigmoid(gate).unsqueeze(1)
        p, q = scalars.chunk(2, dim=1)
        return torch.cat([product[:, :1] + (silu(p) * q).unsqueeze(1), product[:, 1:]], dim=1)

    def logits(self, alpha: Tensor) -> Tensor:
        """Return the logits of the attention [E, H] from scalars [E, H * alpha]."""
        norm, weight = self.ours.alpha_norm, self.ours.alpha_weight
        a = layer_norm(alpha.view(len(alpha), *weight.shape), norm.normalized_shape, norm.weight, norm.bias, NORM_EPS)
        return torch.einsum("eha,ha->eh", 0.6 * a + 0.4 * a * (2 * torch.sigmoid(a) - 1), weight)

    def softmax(self, logits: Tensor, edges: DenseEdges, atoms: int) -> Tensor:
        """Return the attention weights [E, H]."""
        index = edges.receiver[:, None].expand_as(logits)
        largest = logits.new_full((atoms, logits.shape[1]), -torch.inf).scatter_reduce(0, index, logits.detach(),
                                                                                       "amax")
        raw = edges.envelope * torch.exp(logits - largest[edges.receiver])
        total = torch.zeros_like(largest).index_add(0, edges.receiver, raw) + self.config.attention_eps
        return raw / total[edges.receiver] * edges.envelope


class AsPublished(EnergyModel):
    """The energy of an EquiformerV3 with our weights, computed as the published code does.

    Its weights are those that the model had when this was made.
    """

    config: EquiformerV3Config
    backend: Backend = "reference"
    degree: Tensor
    kept: Tensor
    lost: Tensor

    def __init__(self, model: EquiformerV3) -> None:
        """Take over a model.

        Raises:
            OptionError: direct forces, or a limit to the number of neighbours.
        """
        super().__init__()
        c = self.config = model.config
        if c.forces != "conservative" or c.nonsmooth_max_neighbors is not None:
            raise OptionError("the published way to compute EquiformerV3 is there for conservative models with all "
                              "neighbours only")
        self._register_elements(model.atomic_energies)
        self.model = model
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.attention = nn.ModuleList(DenseAttention(block.attention, c) for block in blocks)
        self.feed_forward = nn.ModuleList(GridFeedForward(block.feed_forward) for block in blocks)
        self.norms = [(block.norm_1, block.norm_2) for block in blocks]
        self.register_buffer("degree", torch.tensor(degree_of_component(c.lmax)))
        self.register_buffer("kept", torch.from_numpy(kept_components(c.lmax, c.mmax)))
        self.register_buffer("lost", torch.from_numpy(lost_norm(c.lmax, c.mmax)).to(model.dtype))

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV."""
        elements = self.element_index(graph.numbers)
        edges = self.edges(graph, elements)
        x = self.embed(elements, edges)
        for attention, feed_forward, (norm_1, norm_2) in zip(self.attention, self.feed_forward, self.norms,
                                                             strict=True):
            x = x + attention(merged_norm(x, norm_1, self.degree), edges)
            x = x + feed_forward(merged_norm(x, norm_2, self.degree))
        return self.model.energies(graph, merged_norm(x, self.model.norm, self.degree))

    def edges(self, graph: AtomGraph, elements: Tensor) -> DenseEdges:
        """Return what the layers need of all edges."""
        c, (sender, receiver) = self.config, graph.edge_index
        vectors = graph.vectors(self.dtype)
        r = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        dense = wigner_matrices(from_polar_axis(vectors), c.lmax).mT
        wigner = dense.index_select(1, self.kept)
        return DenseEdges(sender, receiver, elements[graph.edge_index], gaussians(r, c.num_gaussians, c.cutoff),
                          polynomial_cutoff(r, c.cutoff, 5), wigner, wigner.mT * self.lost)

    def embed(self, elements: Tensor, edges: DenseEdges) -> Tensor:
        """Return the features before the first block, [N, (lmax+1)^2, C]."""
        c = self.config
        weights = radial_weights(self.model.edge_embedding, edges.basis, *edges.ends) * edges.envelope
        zonal = weights.view(len(weights), c.lmax + 1, c.channels)
        turned = torch.bmm(edges.inverse[:, :, : c.lmax + 1], zonal)
        around = turned.new_zeros(len(elements), size(c.lmax), c.channels).index_add(0, edges.receiver, turned)
        around = around / c.avg_num_neighbors
        return torch.cat([around[:, :1] + self.model.embedding[elements].unsqueeze(1), around[:, 1:]], dim=1)


def as_published(potential: Potential) -> Potential:
    """Return a potential with the weights of another, computed as published.

    Raises:
        OptionError: another family, or a model that `AsPublished` does not take.
    """
    if not isinstance(potential.model, EquiformerV3):
        raise OptionError("only models of the family equiformer_v3 can be computed as published; this one belongs to "
                          f"{potential.model.config.family}")
    return Potential(AsPublished(potential.model), potential.info)


def first_feed_forward(potential: Potential) -> Callable[[Tensor], Tensor]:
    """Return the feed-forward network of the first layer, [N, (lmax+1)^2, C] to the same shape.

    Raises:
        OptionError: a model that is no EquiformerV3.
    """
    model = potential.model
    if isinstance(model, AsPublished):
        network: Callable[[Tensor], Tensor] = model.feed_forward[0]
        return network
    if not isinstance(model, EquiformerV3):
        raise OptionError(f"models of the family {model.config.family} have no such feed-forward network")
    (block, *_), backend = model.blocks, model.backend
    assert isinstance(block, Block)
    return lambda x: block.feed_forward(x, backend)

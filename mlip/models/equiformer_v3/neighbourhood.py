"""What the layers know of the edges: distances, directions, frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlip.graph import AtomGraph
from mlip.models.equiformer_v3.blocked import ROUND, Chunk, chunks_of
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.nn.rowwise import by_rows
from mlip.ops import Backend, Edges, packing_index, spherical_harmonics, use_compiled, wigner_matrices
from mlip.ops.sphere_tables import embedding_factors
from mlip.ops.wigner import from_polar_axis

ENVELOPE = (1, 3, 6, 10, 15)  # coefficients of what remains of 1 - 21 u^5 + 35 u^6 - 15 u^7 without (1 - u)^3


@dataclass(frozen=True)
class Neighbourhood:
    """E edges to N atoms, sorted by receiver, and R rows of radial functions.

    Attributes:
        sender: [E] int64.
        receiver: [E] int64, ascending.
        offsets: [N+1] int64, the edges of receiver i are offsets[i] to offsets[i+1].
        row: [E] int64, row of the radial functions; edges of one distance and the same elements share one.
        basis: [R, num_gaussians].
        ends: [2, R] int64, elements of sender and receiver.
        harmonics: [E, (lmax+1)^2], of the directions, times the envelope and constants of the embedding.
        wigner: [E, Q], packed matrices that turn features into the frames of the edges.
        envelope: [E, 1], falls to 0 at the cutoff.
        chunks: blocks in which the compiled back end goes through them; none if all are treated at once.
    """

    sender: Tensor
    receiver: Tensor
    offsets: Tensor
    row: Tensor
    basis: Tensor
    ends: Tensor
    harmonics: Tensor
    wigner: Tensor
    envelope: Tensor
    chunks: Sequence[Chunk] = ()

    def replace(self, **fields: Any) -> Neighbourhood:
        """Return a copy with some fields exchanged."""
        return dataclasses.replace(self, **fields)


def neighbourhood(graph: AtomGraph, elements: Tensor, config: EquiformerV3Config, dtype: torch.dtype,
                  backend: Backend) -> Neighbourhood:
    """Return the edges of a graph as the layers need them.

    Args:
        graph: structures with their neighbour lists.
        elements: [N], positions in the element table.
        config: of the model.
        dtype: precision of the model.
        backend: one of `mlip.ops.BACKENDS`.
    """
    c = config
    vectors = graph.vectors(dtype)
    (sender, receiver), (edge, row) = graph.edge_index, _rows(graph, elements)
    if c.nonsmooth_max_neighbors is not None:
        kept = nearest(vectors, receiver, c.nonsmooth_max_neighbors)
        sender, receiver, vectors, row = sender[kept], receiver[kept], vectors[kept], torch.arange(len(kept)).to(kept)
        edge = row
    offsets = Edges.of(sender, receiver, graph.num_atoms, row).offsets
    in_blocks = len(row) and use_compiled(backend, vectors) and not torch.compiler.is_compiling()
    chunks = chunks_of(offsets, row, len(edge)) if in_blocks else ()
    r = torch.linalg.vector_norm(vectors[edge], dim=1, keepdim=True)
    envelope = falling(r, c.cutoff)[row]
    harmonics = spherical_harmonics(vectors, c.lmax, backend) * embedding_factors(c.lmax, c.mmax, r)
    return Neighbourhood(
        sender, receiver, offsets, row, gaussians(r, c.num_gaussians, c.cutoff),
        torch.stack([elements[sender[edge]], elements[receiver[edge]]]),
        harmonics * (envelope / c.avg_num_neighbors), frames(vectors, c.lmax, c.mmax), envelope, chunks)


def nearest(vectors: Tensor, receiver: Tensor, count: int) -> Tensor:
    """Return the edges from the nearest neighbours of each receiver, [E'] int64, ascending.

    Of neighbours at equal distances the first are taken. What is computed from them jumps where neighbours change
    places, and depends on the orientation and the numbering where distances are equal.

    Args:
        vectors: [E, 3], A.
        receiver: [E] int64, ascending.
        count: of neighbours.
    """
    by_distance = torch.argsort(torch.linalg.vector_norm(vectors.detach(), dim=1), stable=True)
    order = by_distance[torch.argsort(receiver[by_distance], stable=True)]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(receiver, receiver)
    return order[rank < count].sort().values


def gaussians(r: Tensor, count: int, cutoff: float) -> Tensor:
    """Return exp(-((r - mu_k) / (2 d))^2 / 2), centres mu_k at equal distances d from 0 to the cutoff.

    Args:
        r: [R, 1], A.
        count: number of functions.
        cutoff: A.

    Returns:
        [R, count].
    """
    spacing = cutoff / (count - 1)
    centres = torch.arange(count, dtype=r.dtype, device=r.device) * spacing
    return torch.exp(-0.5 * ((r - centres) / (2 * spacing)) ** 2)


def falling(r: Tensor, cutoff: float) -> Tensor:
    """Return 1 - 21 u^5 + 35 u^6 - 15 u^7, u = r / cutoff, which falls from 1 to 0 at the cutoff and stays 0.

    As a product with (1 - u)^3: attention divides by sums of it, and the sum of the powers would round to either sign
    where it is small.

    Args:
        r: any shape, A.
        cutoff: A.
    """
    u = (r / cutoff).clamp(max=1.0)
    rest = torch.full_like(u, ENVELOPE[-1])
    for coefficient in ENVELOPE[-2::-1]:
        rest = rest * u + coefficient
    return (1 - u) ** 3 * rest


def frames(vectors: Tensor, lmax: int, mmax: int) -> Tensor:
    """Return the packed matrices that turn features into frames whose axis y is the direction of the edge.

    The rotation comes from a chart without poles (`from_polar_axis`), so that it is smooth for every direction. Which
    one of the rotations to y it is does not matter: all that follows commutes with rotations around y.

    Args:
        vectors: [E, 3].
        lmax: largest degree.
        mmax: largest order that is kept.

    Returns:
        [E, Q], see `rotate_to_edges`.
    """
    index = packing_index(lmax, mmax, vectors)

    def packed(some: Tensor) -> Tensor:
        inverse = wigner_matrices(from_polar_axis(some), lmax)  # of the rotation from y to the edge
        return inverse.mT.flatten(1).index_select(1, index)

    return by_rows(packed, vectors)


def _rows(graph: AtomGraph, elements: Tensor) -> tuple[Tensor, Tensor]:
    """Return one edge of each row of radial functions [R], and the row of each edge [E].

    The two edges of a pair of atoms of one element have the same radial functions; others depend on which end is which.
    Rows that no edge has make R a multiple of `ROUND`.
    """
    every = torch.arange(graph.edge_index.shape[1], device=elements.device)
    if torch.compiler.is_compiling():  # the number of rows would depend on the data
        return every, every
    first = graph.pair_edge[graph.pair]
    sender, receiver = elements[graph.edge_index]
    edge, row = torch.unique(torch.where(sender == receiver, first, every), return_inverse=True)
    return torch.cat([edge, edge[-1:].expand(-len(edge) % ROUND)]), row

"""Turned copies of a batch, without a new search for neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.graph.atomgraph import AtomGraph


def turned(graph: AtomGraph, matrices: Tensor) -> AtomGraph:
    """Return every structure of a batch turned by each of G matrices.

    Rows of positions and cells are multiplied from the right, r -> r M. Edges, shifts and pairs are those of the
    batch with offsets: turning changes no distance. Differentiable in positions, cells and matrices.

    Args:
        graph: B structures, N atoms.
        matrices: [G, 3, 3], orthogonal; reflections are allowed.

    Returns:
        G B structures and G N atoms: all structures turned by the first matrix, then all by the second, and so on.
        Structure b turned by matrix g is number g B + b; a result [G N, ...] has the view [G, N, ...].
    """
    matrices = matrices.to(graph.positions)
    copies, atoms, edges = len(matrices), graph.num_atoms, graph.edge_index.shape[1]

    def repeated(values: Tensor, step: int = 0) -> Tensor:
        """Return [G n, ...] of [n, ...], with offsets that grow by `step` from copy to copy."""
        offsets = step * torch.arange(copies, device=values.device, dtype=values.dtype)
        return (values + offsets.view(-1, *[1] * values.dim())).reshape(-1, *values.shape[1:])

    return AtomGraph(
        positions=torch.einsum("nd,gde->gne", graph.positions, matrices).reshape(-1, 3),
        numbers=repeated(graph.numbers),
        cell=torch.einsum("bkd,gde->gbke", graph.cell, matrices).reshape(-1, 3, 3),
        edge_index=torch.stack([repeated(row, atoms) for row in graph.edge_index]),
        shifts=repeated(graph.shifts),
        pair=repeated(graph.pair, len(graph.pair_edge)),
        pair_edge=repeated(graph.pair_edge, edges),
        batch=repeated(graph.batch, graph.num_structures),
        volume=repeated(graph.volume),
        charge=repeated(graph.charge),
        spin=repeated(graph.spin),
        head=repeated(graph.head),
    )


def turned_each(graph: AtomGraph, matrices: Tensor) -> AtomGraph:
    """Return a batch with every structure turned by a matrix of its own, r -> r M; differentiable as `turned`.

    Args:
        graph: B structures, N atoms.
        matrices: [B, 3, 3], orthogonal; reflections are allowed.
    """
    matrices = matrices.to(graph.positions)
    return graph.replace(positions=torch.einsum("nd,nde->ne", graph.positions, matrices[graph.batch]),
                         cell=graph.cell @ matrices)

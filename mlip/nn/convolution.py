"""Radial network, edge convolution and linear map in one step, block by block of receivers.

The radial weights of all edges, [pairs, weights, channels], are by far the largest tensor of a layer. Here they exist
for one block of receivers at a time: beyond `KEEP` bytes they are made for the forward pass and again for the backward
pass, so that memory grows with the number of atoms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlip.nn.linear import PathLinear
from mlip.nn.workspace import WORKSPACE
from mlip.ops import Backend, Edges, edge_convolution, use_compiled
from mlip.ops.edge_convolution import convolve, convolve_backward
from mlip.so3.degrees import Paths

BLOCK = 64 << 20  # bytes of radial weights in a block: in a large one, more pairs have both their edges
KEEP = 512 << 20  # bytes of radial weights of a layer that are kept for the backward pass


@dataclass(frozen=True)
class Block:
    """Some receivers in a row with all their edges.

    Attributes:
        edges: numbered within the block.
        first: the first edge of the block among all edges.
        receivers: [first, last) receiver.
        atoms: [n] rows of the features that the senders count; None for all.
        pairs: [k] rows of the radial functions that `edges.row` counts; None for all.
    """

    edges: Edges
    first: int
    receivers: tuple[int, int]
    atoms: Tensor | None = None
    pairs: Tensor | None = None

    def edge_rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of the block's edges."""
        return tensor[self.first : self.first + len(self.edges.sender)]


def blocks_of(edges: Edges, pairs: int, row_bytes: int) -> list[Block]:
    """Cut the receivers into blocks.

    Args:
        edges: all edges.
        pairs: number of rows of the radial functions.
        row_bytes: bytes of radial weights of one pair in the widest layer.
    """
    receivers = len(edges.offsets) - 1
    if pairs * row_bytes <= BLOCK:
        return [Block(edges, 0, (0, receivers))]
    most = max(1, int(1.5 * BLOCK / row_bytes))  # two edges of three have a row of their own
    bounds = [0]
    while bounds[-1] < receivers:
        start = int(edges.offsets[bounds[-1]])
        fitting = int(torch.searchsorted(edges.offsets, start + most, right=True)) - 1
        bounds.append(min(receivers, max(fitting, bounds[-1] + 1)))
    return [_block(edges, a, b) for a, b in pairwise(bounds)]


def _block(edges: Edges, begin: int, end: int) -> Block:
    first, last = int(edges.offsets[begin]), int(edges.offsets[end])
    atoms, sender = torch.unique(edges.sender[first:last], return_inverse=True)
    pairs, row = torch.unique(edges.row[first:last], return_inverse=True)
    local = Edges(sender, edges.receiver[first:last] - begin, edges.offsets[begin : end + 1] - first, row)
    return Block(local, first, (begin, end), atoms, pairs)


class RadialNetwork(Protocol):
    """What turns radial functions of pairs [K, n] into weights [K, columns]: `RadialMLP` or `TableNetwork`."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the weights; differentiable any number of times."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what may be trained."""

    def evaluate_into(self, x: Tensor, out: Tensor) -> Any:
        """Write the weights into `out` and return what `differentiate` needs."""

    def differentiate(self, state: Any, g: Tensor) -> Tensor:
        """Return the derivative by x, given that by the weights."""


@dataclass(frozen=True)
class Layer:
    """What a radial convolution is made of, beside its tensors."""

    network: RadialNetwork
    linear: PathLinear
    paths: Paths
    edges: Edges
    blocks: Sequence[Block]

    def weights(self, radial: Tensor, channels: int) -> Tensor:
        """Return [K, W, C] for radial functions [K, n]."""
        return self.network(radial).view(-1, self.paths.weights, channels)

    def plain(self, features: Tensor, harmonics: Tensor, radial: Tensor, backend: Backend) -> Tensor:
        """Return the messages by ops that can be differentiated again."""
        weights = self.weights(radial, features.shape[2])
        messages = edge_convolution(features, harmonics, weights, self.edges, self.paths, backend)
        return self.linear(messages)  # type: ignore[no-any-return]


def radial_convolution(features: Tensor, harmonics: Tensor, radial: Tensor, layer: Layer, backend: Backend) -> Tensor:
    """Return messages [N, (lmax+1)^2, C]: the edge convolution with weights from the radial network, mixed linearly.

    Args:
        features: [N, M1, C].
        harmonics: [E, M2].
        radial: radial functions of each pair of atoms, [K, n].
        layer: network, linear map, paths and edges.
        backend: one of `mlip.ops.BACKENDS`.
    """
    trained = any(p.requires_grad for p in (*layer.network.parameters(), *layer.linear.parameters()))
    if trained or not use_compiled(backend, features, harmonics, radial):
        return layer.plain(features, harmonics, radial, backend)
    return _Blocked.apply(features, harmonics, radial, layer)  # type: ignore[no-any-return, no-untyped-call]


class _Blocked(torch.autograd.Function):
    """`Layer.plain` for weights that are not trained, block by block."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, harmonics: Tensor, radial: Tensor, layer: Layer) -> Tensor:
        channels, out = features.shape[2], []
        row_bytes = layer.paths.weights * channels * features.element_size()
        keep = any(ctx.needs_input_grad) and len(radial) * row_bytes <= KEEP
        ctx.kept, ctx.layer = [None] * len(layer.blocks), layer
        ctx.save_for_backward(features, harmonics, radial)
        for i, block in enumerate(layer.blocks):
            made = _Weights(layer, _rows(radial, block.pairs), channels)
            flat = convolve(_rows(features, block.atoms), block.edge_rows(harmonics), made.weights, block.edges,
                            layer.paths)
            out.append(layer.linear.joined(flat))
            if keep:
                ctx.kept[i] = made
            else:
                made.give_back()
        return out[0] if len(out) == 1 else torch.cat(out)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        features, harmonics, radial = ctx.saved_tensors
        layer: Layer = ctx.layer
        kept, ctx.kept = ctx.kept, [None] * len(layer.blocks)  # in buffers that are lent to others from now on
        if torch.is_grad_enabled():  # to be differentiated again
            return _differentiable(layer, (features, harmonics, radial), ctx.needs_input_grad[:3], g)
        by_features = ctx.needs_input_grad[0]
        dh = torch.zeros_like(features) if by_features else None
        dy, dr = torch.empty_like(harmonics), torch.zeros_like(radial)
        for block, known in zip(layer.blocks, kept, strict=True):
            made = known or _Weights(layer, _rows(radial, block.pairs), features.shape[2])
            dweights = WORKSPACE.take(tuple(made.weights.shape), features)
            upstream = layer.linear.transposed(g[block.receivers[0] : block.receivers[1]])
            part, dy_block = convolve_backward(
                _rows(features, block.atoms), block.edge_rows(harmonics), made.weights, upstream, by_features,
                block.edges, layer.paths, dweights.tensor)
            dr_block = layer.network.differentiate(made.state, dweights.tensor.flatten(1))
            made.give_back()
            WORKSPACE.give(dweights)
            block.edge_rows(dy).copy_(dy_block)
            dr = dr_block if block.pairs is None else dr.index_add_(0, block.pairs, dr_block)
            if dh is not None and part is not None:
                dh = part if block.atoms is None else dh.index_add_(0, block.atoms, part)
        return dh, dy, dr, None


class _Weights:
    """The radial weights of a block in a buffer, and what their derivative needs."""

    def __init__(self, layer: Layer, radial: Tensor, channels: int) -> None:
        self.buffer = WORKSPACE.take((len(radial), layer.paths.weights, channels), radial)
        self.weights = self.buffer.tensor
        self.state = layer.network.evaluate_into(radial, self.weights.flatten(1))

    def give_back(self) -> None:
        WORKSPACE.give(self.buffer)


def _rows(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows)


def _differentiable(layer: Layer, inputs: tuple[Tensor, ...], needed: Sequence[bool],
                    g: Tensor) -> tuple[Tensor | None, ...]:
    h, y, r = (x.view_as(x) for x in inputs)  # they depend on each other; the derivatives wanted are partial ones
    chosen = [x for x, need in zip((h, y, r), needed, strict=True) if need]
    found = iter(torch.autograd.grad(layer.plain(h, y, r, "compiled"), chosen, g, create_graph=True))
    return *(next(found) if need else None for need in needed), None

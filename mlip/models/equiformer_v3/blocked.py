"""Graph attention block by block of receivers, for weights that are not trained.

All tensors of edges exist for one block at a time, in the forward and again in the backward pass. Kept between the two
are, up to `KEEP` bytes for a layer, the results of the first SO(2) linear map, which is by far the most work; all else
is made again, except in small structures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mlip.models.equiformer_v3.blocks import NORM_EPS
from mlip.nn.workspace import WORKSPACE
from mlip.ops.attention_activation import head_logits, head_logits_backward, swiglu, swiglu_backward
from mlip.ops.edge_rotation import from_edges, from_edges_backward, to_edges, to_edges_backward
from mlip.ops.sphere_tables import swiglu_matrices

if TYPE_CHECKING:
    from mlip.models.equiformer_v3.attention import GraphAttention
    from mlip.models.equiformer_v3.neighbourhood import Neighbourhood

EDGES = 512  # in a block, unless one atom has more
ROWS = 16384  # of radial functions in a chunk of blocks; calls that `mlip.screening` makes have no more
KEEP = 768 << 20  # bytes for a layer
ROUND = 4  # rows of a block are filled up to multiples: an odd number takes other kernels at the end, with other bits
KEEP_ALL = 4 << 20  # bytes of the same tensors up to which everything is kept that is worth it


@dataclass(frozen=True)
class Block:
    """Receivers in a row, [first, last), and their edges, [begin, end)."""

    first: int
    last: int
    begin: int
    end: int

    @property
    def edges(self) -> int:
        """How many edges it has."""
        return self.end - self.begin

    @property
    def rows(self) -> int:
        """How many rows its linear maps have: edges, and rows of zeros to a multiple of `ROUND`."""
        return self.edges + -self.edges % ROUND


@dataclass(frozen=True)
class Chunk:
    """Blocks that share radial functions.

    Attributes:
        blocks: in ascending order.
        rows: [n] int64, rows of the radial functions that are needed; None for all.
        row: [E] int64, the row of each edge of the chunk among these.
    """

    blocks: Sequence[Block]
    rows: Tensor | None
    row: Tensor

    def rows_of(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Return the rows of the chunk."""
        return tensor if self.rows is None else tensor.index_select(dim, self.rows)

    def row_of(self, block: Block) -> Tensor:
        """Return the row of each edge of a block."""
        begin = self.blocks[0].begin
        return self.row[block.begin - begin : block.end - begin]


def chunks_of(offsets: Tensor, row: Tensor, rows: int) -> list[Chunk]:
    """Cut the receivers into blocks, and these into chunks.

    Args:
        offsets: [N+1] int64, the edges of each receiver.
        row: [E] int64, the row of the radial functions of each edge.
        rows: number of rows.
    """
    blocks = [Block(first, last, int(offsets[first]), int(offsets[last]))
              for first, last in _cuts(offsets, EDGES)]
    if rows <= ROWS:
        return [Chunk(blocks, None, row)]
    chunks, group = [], ROWS // EDGES
    for some in (blocks[i : i + group] for i in range(0, len(blocks), group)):
        needed, local = torch.unique(row[some[0].begin : some[-1].end], return_inverse=True)
        chunks.append(Chunk(some, needed, local))
    return chunks


def _cuts(offsets: Tensor, most: int) -> list[tuple[int, int]]:
    """Return ranges of receivers with at most `most` edges, or one receiver."""
    ends, bounds = offsets.tolist(), [0]
    for i in range(1, len(ends)):
        if ends[i] - ends[bounds[-1]] > most and i - 1 > bounds[-1]:
            bounds.append(i - 1)
    return list(zip(bounds, [*bounds[1:], len(ends) - 1], strict=True))


def blocked_attention(x: Tensor, edges: Neighbourhood, layer: GraphAttention) -> Tensor:
    """Return `layer.attend(x, edges)`, [N, (lmax+1)^2, heads * value]."""
    apply: Callable[..., Tensor] = _Blocked.apply
    return apply(x, edges.basis, edges.wigner, edges.envelope, layer, edges)


class _Blocked(torch.autograd.Function):
    """`GraphAttention.attend`, whose derivatives by features, radial basis, frames and envelope are known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, basis: Tensor, wigner: Tensor, envelope: Tensor, layer: GraphAttention,
                edges: Neighbourhood) -> Tensor:
        run = _Run(layer, edges, x, basis, wigner, envelope)
        size = len(wigner) * layer.kept_numbers * x.element_size() if any(ctx.needs_input_grad) else 2 * KEEP
        out = x.new_empty(len(x), x.shape[1], layer.second.outputs)
        ctx.kept, ctx.layer, ctx.edges = [], layer, edges
        for chunk in edges.chunks:
            radial = run.radial(chunk)
            for block in chunk.blocks:
                first = run.first(block, chunk, radial)
                made = run.second(block, first)
                out[block.first : block.last] = run.sum(block, made)
                ctx.kept.append((first if size <= KEEP else None, made if size <= KEEP_ALL else None))
        ctx.save_for_backward(x, basis, wigner, envelope)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved, layer, edges = ctx.saved_tensors, ctx.layer, ctx.edges
        if torch.is_grad_enabled():  # to be differentiated again
            return _differentiable(layer, edges, saved, ctx.needs_input_grad[:4], g)
        kept, ctx.kept = iter(ctx.kept), [(None, None)] * len(ctx.kept)
        run = _Run(layer, edges, *saved)
        dx, dbasis, dwigner, denvelope = (torch.zeros_like(t) for t in saved)
        for chunk in edges.chunks:
            radial = run.radial(chunk)
            dradial = torch.zeros_like(radial)
            for block in chunk.blocks:
                first, made = next(kept)
                made = made or run.second(block, first or run.first(block, chunk, radial))
                run.backward(block, chunk, radial, made, g[block.first : block.last], (dx, dradial, dwigner, denvelope))
            run.radial_backward(chunk, dradial, dbasis)
        return dx, dbasis, dwigner, denvelope, None, None


First = tuple[Tensor, Tensor]  # scalars [r, extra] and hidden components [r, K, outputs] of the r rows of a block


@dataclass(frozen=True)
class Second:
    """What comes behind the first linear map in a block.

    Attributes:
        first: scalars and hidden components.
        leaves: logits [e, H] and envelope [e, 1].
        weights: [e, H], of the attention, and their graph from these.
        gated: gates, hidden components and, with its graph from these, what becomes of them [r, K, hidden]; None for
            the activation `"swiglu"`, which needs no graph.
        values: [e, K, heads * value].
    """

    first: First
    leaves: tuple[Tensor, Tensor]
    weights: Tensor
    gated: tuple[Tensor, Tensor, Tensor] | None
    values: Tensor


class _Run:
    """One pass over a layer: what happens to each block."""

    def __init__(self, layer: GraphAttention, edges: Neighbourhood, x: Tensor, basis: Tensor, wigner: Tensor,
                 envelope: Tensor) -> None:
        self.layer, self.edges, self.frame = layer, edges, layer.first.frame
        self.x, self.basis, self.wigner, self.envelope = x, basis, wigner, envelope

    def radial(self, chunk: Chunk) -> Tensor:
        """Return the radial weights of a chunk, [n, lmax+1, 2C]."""
        with torch.no_grad():
            flat: Tensor = self.layer.radial(chunk.rows_of(self.basis), chunk.rows_of(self.edges.ends, 1))
        return flat.view(len(flat), self.frame.lmax + 1, 2 * self.x.shape[2])

    def radial_backward(self, chunk: Chunk, dradial: Tensor, dbasis: Tensor) -> None:
        network = self.layer.radial
        with torch.enable_grad():
            basis = chunk.rows_of(self.basis).detach().requires_grad_()
            hidden = network.hidden(basis, chunk.rows_of(self.edges.ends, 1))
        (found,) = torch.autograd.grad(hidden, basis, dradial.flatten(1) @ network.output.weight)
        if chunk.rows is None:
            dbasis += found
        else:
            dbasis.index_add_(0, chunk.rows, found)

    def first(self, block: Block, chunk: Chunk, radial: Tensor) -> First:
        """Return the results of the first linear map."""
        sender, receiver = self._ends(block)
        buffer = WORKSPACE.take((block.rows, self.frame.components, 2 * self.x.shape[2]), self.x)
        messages, rest = buffer.tensor.tensor_split([block.edges])
        to_edges(self.x, self.wigner[block.begin : block.end], radial, sender, receiver, chunk.row_of(block),
                 self.frame.lmax, self.frame.mmax, messages)
        rest.zero_()
        made: First = self.layer.first.evaluate(buffer.tensor)
        WORKSPACE.give(buffer)
        return made

    def second(self, block: Block, first: First) -> Second:
        """Return values and weights."""
        layer, (scalars, hidden), (_, receiver) = self.layer, first, self._ends(block)
        alpha, *gates = torch.split(scalars, layer.extra, dim=1)
        logits = head_logits(alpha[: block.edges], *self._norm()).requires_grad_()
        envelope = self.envelope[block.begin : block.end].detach().requires_grad_()
        with torch.enable_grad():
            weights = layer.weights(logits, receiver - block.first, block.last - block.first, envelope)
        gated = None
        if layer.activation == "swiglu":
            active = swiglu(hidden, gates[0], gates[1], *self._sphere())
        else:
            with torch.enable_grad():
                gate, hidden = (t.detach().requires_grad_() for t in (*gates, hidden))
                active = layer.activate(hidden, [gate], "compiled")
            gated = gate, hidden, active
        return Second(first, (logits, envelope), weights, gated, layer.second.evaluate(active)[1][: block.edges])

    def sum(self, block: Block, made: Second) -> Tensor:
        """Return the sums on the receivers of a block."""
        return from_edges(made.values, self.wigner[block.begin : block.end], made.weights.detach(),
                          self._offsets(block), self.frame.lmax, self.frame.mmax)

    def backward(self, block: Block, chunk: Chunk, radial: Tensor, made: Second, g: Tensor,
                 sums: tuple[Tensor, ...]) -> None:
        """Add the derivatives of a block to those by features, radial weights, frames and envelope."""
        dx, dradial, dwigner, denvelope = sums
        here, (sender, receiver) = slice(block.begin, block.end), self._ends(block)
        wigner, row, lmax, mmax = self.wigner[here], chunk.row_of(block), self.frame.lmax, self.frame.mmax
        dvalues, by_sum, dweights = from_edges_backward(g, made.values, wigner, made.weights.detach(),
                                                        self._offsets(block), lmax, mmax)
        dscalars, dhidden, by_weights = self._between(made, dvalues, dweights)
        buffer = WORKSPACE.take((block.rows, self.frame.components, 2 * self.x.shape[2]), self.x)
        self.layer.first.transposed(dscalars, dhidden, buffer.tensor)
        dmessages = buffer.tensor[: block.edges]
        by_messages, of_edges = to_edges_backward(dmessages, self.x, wigner, radial, sender, receiver, row, lmax, mmax,
                                                  dx)
        WORKSPACE.give(buffer)
        dradial.index_add_(0, row, of_edges)
        torch.add(by_sum, by_messages, out=dwigner[here])
        denvelope[here] = by_weights

    def _between(self, made: Second, dvalues: Tensor, dweights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the derivatives by scalars, hidden components and envelope of what has these by values and weights."""
        layer, (scalars, hidden), edges = self.layer, made.first, len(dvalues)
        dlogits, denvelope = torch.autograd.grad(made.weights, made.leaves, dweights)
        dscalars = torch.zeros_like(scalars)
        alpha, *gates = torch.split(scalars, layer.extra, dim=1)
        dalpha, *dgates = torch.split(dscalars, layer.extra, dim=1)
        head_logits_backward(dlogits, alpha[:edges], *self._norm(), dalpha[:edges])
        dvalues = pad(dvalues, (0, 0, 0, 0, 0, len(scalars) - edges)) if len(scalars) > edges else dvalues
        dactive = dvalues.new_empty(*dvalues.shape[:2], layer.config.attention_hidden)
        layer.second.transposed(None, dvalues, dactive)
        if made.gated is None:
            dhidden = swiglu_backward(dactive, hidden, gates[0], gates[1], *self._sphere(), dgates[0], dgates[1])
        else:
            *leaves, active = made.gated
            by_gate, dhidden = torch.autograd.grad(active, leaves, dactive)
            dgates[0].copy_(by_gate)
        return dscalars, dhidden, denvelope

    def _norm(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return what `head_logits` needs: weight and bias of the norm, weights of the channels, epsilon."""
        norm = self.layer.alpha_norm
        return norm.weight.detach(), norm.bias.detach(), self.layer.alpha_weight.detach(), NORM_EPS

    def _sphere(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return what `swiglu` needs: matrices and reflections."""
        _, to, back, reflections = swiglu_matrices(self.frame.lmax, self.frame.mmax, self.x, True)
        assert reflections is not None
        return to, back, reflections

    def _ends(self, block: Block) -> tuple[Tensor, Tensor]:
        return self.edges.sender[block.begin : block.end], self.edges.receiver[block.begin : block.end]

    def _offsets(self, block: Block) -> Tensor:
        return self.edges.offsets[block.first : block.last + 1] - block.begin


def _differentiable(layer: GraphAttention, edges: Neighbourhood, saved: Sequence[Tensor], needed: Sequence[bool],
                    g: Tensor) -> tuple[Tensor | None, ...]:
    x, basis, wigner, envelope = (t.view_as(t) for t in saved)  # they may depend on each other
    out = layer.attend(x, edges.replace(basis=basis, wigner=wigner, envelope=envelope), "compiled")
    chosen = [t for t, need in zip((x, basis, wigner, envelope), needed, strict=True) if need]
    found = iter(torch.autograd.grad(out, chosen, g, create_graph=True))
    return *(next(found) if need else None for need in needed), None, None

"""Attention of atoms to their neighbours and to themselves, with rotary phases of the edge vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.ops.backend import Backend
from mlip.ops.edge_convolution import Edges


def edge_attention(query: Tensor, key: Tensor, value: Tensor, vectors: Tensor, bias: Tensor, frequencies: Tensor,
                   edges: Edges, backend: Backend = "auto") -> Tensor:
    """Return what atoms take from their neighbours and from themselves by attention.

    Channels of a head are complex numbers, real parts first. T(r) multiplies the f-th by exp(i w_f . r), the rotary
    embedding of Su et al. (arXiv 2104.09864) in three dimensions. With the softmax over the edges e = (j, i) and the
    atom itself: out_i = a_ii v_i + sum_e a_e T(r_e) v_j, where the logits are q_i . k_i and q_i . T(r_e) k_j + b_e.

    Args:
        query: q, [N, H, 2F], scaled.
        key: k, [N, H, 2F].
        value: v, [N, H, 2F].
        vectors: r, [E, 3] in A, from the receiver to the sender.
        bias: b, [E, H], added to the logits; may be as low as the numbers of the precision go, but not infinite.
        frequencies: w, [H, F, 3] in 1/A.
        edges: E edges to N receivers; their `row` is not read.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [N, H, 2F]; differentiable any number of times.
    """
    return _reference(query, key, value, vectors, bias, frequencies, edges)


def _reference(query: Tensor, key: Tensor, value: Tensor, vectors: Tensor, bias: Tensor, frequencies: Tensor,
               edges: Edges) -> Tensor:
    phase = (vectors @ frequencies.flatten(0, 1).T).view(len(vectors), *frequencies.shape[:2])
    cos, sin = torch.cos(phase), torch.sin(phase)
    turned = _turned(key.index_select(0, edges.sender), cos, sin)
    logits = (query.index_select(0, edges.receiver) * turned).sum(-1) + bias
    own = (query * key).sum(-1)
    to = edges.receiver.unsqueeze(1).expand_as(logits)
    top = own.detach().scatter_reduce(0, to, logits.detach(), "amax")  # cancels in the softmax
    weights, alone = torch.exp(logits - top.index_select(0, edges.receiver)), torch.exp(own - top)
    total = alone.index_add(0, edges.receiver, weights)
    messages = _turned(value.index_select(0, edges.sender), cos, sin) * weights.unsqueeze(-1)
    return (alone.unsqueeze(-1) * value).index_add(0, edges.receiver, messages) / total.unsqueeze(-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the channels [E, H, 2F] times exp(i phase), whose parts are [E, H, F]."""
    real, imaginary = x.chunk(2, dim=-1)
    return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)

"""Parts of TransIP: norm, attention, feed-forward network, readout, charge and spin."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu

from mlip.models.transip.config import TransIPConfig
from mlip.nn.linear import normal
from mlip.nn.rowwise import by_rows
from mlip.ops import Backend, Edges, edge_attention

NORM_EPS = 1e-6


class Linear(nn.Module):
    """x W^T, with weights whose variance is one over the number of inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(outputs, inputs) / sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] for x [..., inputs]."""
        return linear(x, self.weight)


def normalised(x: Tensor) -> Tensor:
    """Return x divided by the root mean square of its last axis."""
    return rms_norm(x, x.shape[-1:], eps=NORM_EPS)


class RMSNorm(nn.Module):
    """Divides the last axis by its root mean square, and multiplies each channel with a weight."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like x [..., *shape]."""
        return normalised(x) * self.weight


class Attention(nn.Module):
    """Attention to neighbours with rotary phases of the edge vectors, and norms of queries and keys."""

    def __init__(self, config: TransIPConfig) -> None:
        super().__init__()
        c, heads = config.channels, config.num_heads
        self.heads, self.size = heads, c // heads
        self.project = Linear(c, 3 * c)
        self.query_norm = RMSNorm(heads, self.size)
        self.key_norm = RMSNorm(heads, self.size)
        self.frequencies = nn.Parameter(config.frequency * normal(heads, self.size // 2, 3))
        self.output = Linear(c, c)

    def forward(self, x: Tensor, edges: Edges, vectors: Tensor, bias: Tensor, backend: Backend) -> Tensor:
        """Return [N, C] for x of the same shape, vectors of the edges [E, 3] and a bias of the logits [E, H]."""
        query, key, value = self.project(x).view(len(x), 3, self.heads, self.size).unbind(1)
        query = self.query_norm(query) / sqrt(self.size)
        out = edge_attention(query, self.key_norm(key), value, vectors, bias, self.frequencies, edges, backend)
        found: Tensor = self.output(out.flatten(1))
        return found


class FeedForward(nn.Module):
    """SwiGLU: a linear map of silu(a) b, where a and b are linear maps of the input (arXiv 2002.05202)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.input = Linear(channels, 2 * hidden)
        self.output = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C] for x of the same shape."""
        a, b = self.input(x).chunk(2, dim=-1)
        out: Tensor = self.output(silu(a) * b)
        return out


class Block(nn.Module):
    """Attention and feed-forward network, each behind a norm, weighted channel by channel and added to its input."""

    def __init__(self, config: TransIPConfig) -> None:
        super().__init__()
        c = config.channels
        self.attention_norm, self.feed_forward_norm = RMSNorm(c), RMSNorm(c)
        self.attention = Attention(config)
        self.feed_forward = FeedForward(c, config.feed_forward * c)
        share = torch.full((c,), 1 / config.num_layers, dtype=torch.float32)
        self.attention_weight, self.feed_forward_weight = nn.Parameter(share), nn.Parameter(share.clone())

    def forward(self, x: Tensor, edges: Edges, vectors: Tensor, bias: Tensor, backend: Backend) -> Tensor:
        """Return [N, C] for x of the same shape, vectors of the edges [E, 3] and a bias of the logits [E, H]."""
        x = x + self.attention_weight * self.attention(self.attention_norm(x), edges, vectors, bias, backend)
        return by_rows(self._fed, x, [*self.feed_forward.parameters(), *self.feed_forward_norm.parameters(),
                                      self.feed_forward_weight])

    def _fed(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.feed_forward_weight * self.feed_forward(self.feed_forward_norm(x))
        return out


class Readout(nn.Module):
    """Two linear maps of the normalised channels with silu between."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.hidden = Linear(channels, channels)
        self.output = Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs] for x [N, C]."""
        out: Tensor = self.output(silu(self.hidden(x)))
        return out


class State(nn.Module):
    """The embedding of charge and spin: a network of one vector for each, zero before training."""

    charges: Tensor
    spins: Tensor

    def __init__(self, charges: Sequence[int], spins: Sequence[int], channels: int) -> None:
        super().__init__()
        self.charge = nn.Parameter(normal(len(charges), channels))
        self.spin = nn.Parameter(normal(len(spins), channels))
        self.hidden = Linear(2 * channels, channels)
        self.output = nn.Parameter(torch.zeros(channels, channels, dtype=torch.float32))
        self.register_buffer("charges", torch.tensor(charges), persistent=False)
        self.register_buffer("spins", torch.tensor(spins), persistent=False)

    def forward(self, charge: Tensor, spin: Tensor) -> Tensor:
        """Return [B, C] for charges and multiplicities [B], which must be among the known ones."""
        known = torch.cat([self.charge[torch.searchsorted(self.charges, charge)],
                           self.spin[torch.searchsorted(self.spins, spin)]], dim=1)
        return silu(self.hidden(known)) @ self.output

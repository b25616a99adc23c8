"""Graph attention: features rotated into the frames of the edges, mixed by SO(2) linear maps, weighted and summed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from mlip.models.equiformer_v3.blocked import blocked_attention
from mlip.models.equiformer_v3.blocks import NORM_EPS, DegreeMap, RadialNetwork, constant, gated
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.models.equiformer_v3.neighbourhood import Neighbourhood
from mlip.models.equiformer_v3.so2 import SO2Linear
from mlip.nn.linear import normal
from mlip.ops import Backend, rotate_from_edges, rotate_to_edges, sphere_product, use_compiled
from mlip.ops.sphere_tables import swiglu_matrices


class GraphAttention(nn.Module):
    """Attention over the edges to each atom; `activation` is `"swiglu"` in the blocks and `"gate"` in the heads."""

    def __init__(self, config: EquiformerV3Config, outputs: int, activation: str = "swiglu") -> None:
        super().__init__()
        c = self.config = config
        self.activation = activation
        degrees, hidden = c.lmax + 1, c.attention_hidden
        swiglu = activation == "swiglu"
        self.extra = [c.num_heads * c.attention_alpha, *([2 * hidden, hidden] if swiglu else [c.lmax * hidden])]
        values = c.num_heads * c.attention_value
        self.radial = RadialNetwork(len(c.atomic_numbers), c.num_gaussians, c.edge_channels, degrees * 2 * c.channels)
        self.first = SO2Linear(c.lmax, c.mmax, 2 * c.channels, (2 if swiglu else 1) * hidden, sum(self.extra))
        self.alpha_norm = nn.LayerNorm(c.attention_alpha, dtype=torch.float32)
        self.alpha_weight = nn.Parameter(normal(c.num_heads, c.attention_alpha) / c.attention_alpha**0.5)
        self.second = SO2Linear(c.lmax, c.mmax, hidden, values)
        self.project = DegreeMap(c.lmax, values, outputs)

    def forward(self, x: Tensor, edges: Neighbourhood, backend: Backend) -> Tensor:
        """Return [N, (lmax+1)^2, outputs] for x [N, (lmax+1)^2, channels]."""
        in_blocks = edges.chunks and constant(self)
        summed = blocked_attention(x, edges, self) if in_blocks else self.attend(x, edges, backend)
        out: Tensor = self.project(summed)
        return out

    def attend(self, x: Tensor, edges: Neighbourhood, backend: Backend) -> Tensor:
        """Return the weighted sum of the values on each atom, [N, (lmax+1)^2, heads * value], for all edges at once."""
        c = self.config
        radial = self.radial(edges.basis, edges.ends).view(len(edges.basis), c.lmax + 1, 2 * c.channels)
        messages = rotate_to_edges(x, edges.wigner, radial, edges.sender, edges.receiver, edges.row, c.lmax, c.mmax,
                                   backend)
        scalars, hidden = self.first(messages)
        alpha, *gates = scalars.split(self.extra, dim=1)
        _, values = self.second(self.activate(hidden, gates, backend))
        weights = self.weights(self.logits(alpha), edges.receiver, len(edges.offsets) - 1, edges.envelope)
        return rotate_from_edges(values, edges.wigner, weights, edges.offsets, c.lmax, c.mmax, backend)

    @property
    def kept_numbers(self) -> int:
        """How many numbers of an edge are kept for the backward pass: the results of the first linear map."""
        return sum(self.extra) + self.first.frame.components * self.first.outputs

    def logits(self, alpha: Tensor) -> Tensor:
        """Return the logits of the attention [E, H] from scalars [E, H * alpha]."""
        a = alpha.view(len(alpha), *self.alpha_weight.shape)
        a = layer_norm(a, self.alpha_norm.normalized_shape, self.alpha_norm.weight, self.alpha_norm.bias, NORM_EPS)
        smooth = torch.add(a, silu(a), alpha=4)  # times 0.2: the smooth leaky relu 0.6 a + 0.4 a (2 sigmoid(a) - 1)
        return (smooth * (0.2 * self.alpha_weight)).sum(dim=-1)

    def weights(self, logits: Tensor, receiver: Tensor, atoms: int, envelope: Tensor) -> Tensor:
        """Return the attention weights [E, H]: a softmax over the edges to each atom that vanishes at the cutoff.

        Because of `attention_eps` they depend on the largest logit, which is differentiated, too.

        Args:
            logits: [E, H].
            receiver: [E] int64, below `atoms`.
            atoms: number of receivers.
            envelope: [E, 1].
        """
        index, shape = receiver[:, None].expand_as(logits), (atoms, logits.shape[1])
        largest = logits.new_full(shape, -torch.inf).scatter_reduce(0, index, logits, "amax")
        raw = envelope * torch.exp(logits - largest[receiver])
        total = raw.new_zeros(shape).index_add(0, receiver, raw) + self.config.attention_eps
        return raw / total[receiver] * envelope

    def activate(self, x: Tensor, gates: list[Tensor], backend: Backend) -> Tensor:
        """Return hidden components [E, K, hidden]."""
        if self.activation == "gate":
            degrees = torch.tensor([l for l, _ in self.first.frame.kept()][1:], device=x.device)
            return gated(x, gates[0], degrees)
        scalars, gate = gates
        c = self.config
        matrices = swiglu_matrices(c.lmax, c.mmax, x, use_compiled(backend, x))
        factor_1, factor_2 = x.chunk(2, dim=2)
        product = sphere_product(factor_1, factor_2, *matrices, backend)
        first, others = (product * torch.sigmoid(gate).unsqueeze(1)).tensor_split([1], dim=1)
        p, q = scalars.chunk(2, dim=1)
        return torch.cat([first + (silu(p) * q).unsqueeze(1), others], dim=1)

"""Graph attention: features rotated into the frames of the edges, mixed by SO(2) linear maps, weighted and summed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from mlip.models.equiformer_v3.blocks import NORM_EPS, DegreeMap, RadialNetwork, uniform
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.models.equiformer_v3.neighbourhood import Neighbourhood
from mlip.nn.linear import normal
from mlip.ops import Backend, rotate_from_edges, rotate_to_edges, sphere_product
from mlip.ops.sphere_tables import swiglu_matrices
from mlip.so3.edge_frame import EdgeFrame


class SO2Linear(nn.Module):
    """A linear map that commutes with rotations around the edge: complex matrices between components of one order m.

    Components of the orders +m and -m are the parts of complex numbers (Passaro and Zitnick, ICML 2023, eq. 4).
    """

    def __init__(self, lmax: int, mmax: int, inputs: int, outputs: int, extra: int = 0) -> None:
        super().__init__()
        self.frame, self.outputs, self.extra = EdgeFrame(lmax, mmax), outputs, extra
        self.order_0 = nn.Linear((lmax + 1) * inputs, extra + (lmax + 1) * outputs, dtype=torch.float32)
        sizes = [lmax + 1 - m for m in range(1, mmax + 1)]
        self.real = nn.ParameterList(uniform(n * outputs, n * inputs, fan_in=2 * n * inputs) for n in sizes)
        self.imaginary = nn.ParameterList(uniform(n * outputs, n * inputs, fan_in=2 * n * inputs) for n in sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scalars [E, extra] and components [E, K, outputs] for x [E, K, inputs]."""
        (zero,), *pairs = self.frame.orders()
        scalars, first = self.order_0(x[:, zero].flatten(1)).tensor_split([self.extra], dim=1)
        out = [first]
        for (plus, minus), real, imaginary in zip(pairs, self.real, self.imaginary, strict=True):
            a, b = x[:, plus].flatten(1), x[:, minus].flatten(1)
            out += [linear(a, real) - linear(b, imaginary), linear(b, real) + linear(a, imaginary)]
        return scalars, torch.cat(out, dim=1).view(len(x), self.frame.components, self.outputs)


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
        c = self.config
        radial = self.radial(edges.basis, edges.ends).view(len(edges.basis), c.lmax + 1, 2 * c.channels)
        messages = rotate_to_edges(x, edges.wigner, radial, edges.sender, edges.receiver, edges.row, c.lmax, c.mmax,
                                   backend)
        scalars, hidden = self.first(messages)
        alpha, *gates = scalars.split(self.extra, dim=1)
        _, values = self.second(self.activate(hidden, gates, backend))
        weights = self.weights(self.logits(alpha), edges)
        out: Tensor = self.project(rotate_from_edges(values, edges.wigner, weights, edges.offsets, c.lmax, c.mmax,
                                                     backend))
        return out

    def logits(self, alpha: Tensor) -> Tensor:
        """Return the logits of the attention [E, H] from scalars [E, H * alpha]."""
        a = alpha.view(len(alpha), *self.alpha_weight.shape)
        a = layer_norm(a, self.alpha_norm.normalized_shape, self.alpha_norm.weight, self.alpha_norm.bias, NORM_EPS)
        smooth = 0.6 * a + 0.4 * a * (2 * torch.sigmoid(a) - 1)  # smooth leaky relu
        return (smooth * self.alpha_weight).sum(dim=-1)

    def weights(self, logits: Tensor, edges: Neighbourhood) -> Tensor:
        """Return the attention weights [E, H]: a softmax over the edges to each atom that vanishes at the cutoff."""
        receiver, shape = edges.receiver, (len(edges.offsets) - 1, logits.shape[1])
        index = receiver[:, None].expand_as(logits)
        largest = logits.new_full(shape, -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
        raw = edges.envelope * torch.exp(logits - largest[receiver])
        total = raw.new_zeros(shape).index_add(0, receiver, raw) + self.config.attention_eps
        return raw / total[receiver] * edges.envelope

    def activate(self, x: Tensor, gates: list[Tensor], backend: Backend) -> Tensor:
        """Return hidden components [E, K, hidden]."""
        if self.activation == "gate":
            return self._gated(x, gates[0])
        scalars, gate = gates
        c = self.config
        half = c.attention_hidden
        product = sphere_product(x[..., :half], x[..., half:], *swiglu_matrices(c.lmax, c.mmax, x), backend)
        product = product * torch.sigmoid(gate).unsqueeze(1)
        first = product[:, :1] + (silu(scalars[:, :half]) * scalars[:, half:]).unsqueeze(1)
        return torch.cat([first, product[:, 1:]], dim=1)

    def _gated(self, x: Tensor, gate: Tensor) -> Tensor:
        c = self.config
        factors = torch.sigmoid(gate).view(len(x), c.lmax, c.attention_hidden)
        degrees = [l - 1 for l, _ in [*EdgeFrame(c.lmax, c.mmax).kept()][1:]]
        return torch.cat([silu(x[:, :1]), x[:, 1:] * factors[:, degrees]], dim=1)

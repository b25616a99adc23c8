"""The feed-forward network of an atom: two degree-wise maps around the product of two signals on the sphere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mlip.models.equiformer_v3.blocks import DegreeMap, constant, map_degrees, uniform
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.nn.merged import Merged
from mlip.ops import Backend, sphere_product, use_compiled
from mlip.ops.sphere_tables import swiglu_matrices
from mlip.so3.degrees import block

ATOMS = 64  # in a block
KEEP = 32 << 20  # bytes of both factors of a layer that are kept for the backward pass


class FeedForward(nn.Module):
    """Maps to hidden channels, multiplies two signals on the sphere, maps back (arXiv 2604.09130).

    The published network has linear maps of channels on the points of a grid. They commute with going there and back,
    so here they act on coefficients; where weights are not trained they are merged with the maps beside them, and all
    that happens on the sphere is the product.
    """

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__()
        self.lmax, width = config.lmax, config.feed_forward_hidden
        self.expand = DegreeMap(config.lmax, config.channels, width)
        self.gate = nn.Linear(config.channels, width, dtype=torch.float32)
        self.scalars = nn.Linear(config.channels, 2 * width, dtype=torch.float32)
        self.factors = uniform(2 * width, width, fan_in=width)
        self.mix = uniform(width, width, fan_in=width)
        self.contract = DegreeMap(config.lmax, width, config.channels)
        self.merged = Merged()

    def forward(self, x: Tensor, backend: Backend) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        if len(x) and use_compiled(backend, x) and constant(self):
            return feed_forward(x, self)
        into, bias, out_of = self.maps()
        first, second = map_degrees(x, into, bias).chunk(2, dim=2)
        gate, scalars = self.from_scalars(x[:, 0])
        out = map_degrees(self.product(first, second, gate, backend), out_of, self.contract.bias)
        zero, others = out.tensor_split([1], dim=1)
        return torch.cat([zero + linear(scalars, self.contract.weight[0]).unsqueeze(1), others], dim=1)

    def maps(self) -> tuple[Tensor, ...]:
        """Return the matrices to both factors [L+1, 2F, C], their bias [2F], and those from the product [L+1, C, F]."""
        c: tuple[Tensor, ...] = self.merged(self._maps, self.expand.weight, self.expand.bias, self.factors, self.mix,
                                            self.contract.weight)
        return c

    def from_scalars(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the product is multiplied by and what is added to degree 0 behind it, [N, F] each."""
        p, q = self.scalars(x).chunk(2, dim=1)
        return torch.sigmoid(self.gate(x)), silu(p) * q

    def product(self, first: Tensor, second: Tensor, gate: Tensor, backend: Backend) -> Tensor:
        """Return [..., (lmax+1)^2, F] for two factors of that shape; and a gate [..., F] for all components."""
        matrices = swiglu_matrices(self.lmax, None, first, use_compiled(backend, first))
        product = sphere_product(first, second, *matrices, backend)
        return product * gate.unsqueeze(-2)

    @staticmethod
    def _maps(expand: Tensor, bias: Tensor, factors: Tensor, mix: Tensor, contract: Tensor) -> tuple[Tensor, ...]:
        return factors @ expand, factors @ bias, contract @ mix


def feed_forward(x: Tensor, layer: FeedForward) -> Tensor:
    """Return `layer(x)` for weights that are not trained: block by block of atoms, component after component."""
    apply: Callable[..., Tensor] = _Blocked.apply
    return apply(x, layer)


class _Blocked(torch.autograd.Function):
    """The network on blocks of atoms; for a block, all atoms and channels are the columns of one signal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FeedForward) -> Tensor:
        maps, out = layer.maps(), torch.empty_like(x)
        keep = ctx.needs_input_grad[0] and x.numel() * x.element_size() * len(maps[1]) <= KEEP * x.shape[2]
        ctx.kept = []
        for i, some in enumerate(torch.split(x, ATOMS)):
            factors = _factors(some, maps)
            gate, scalars = layer.from_scalars(some[:, 0])
            first, second = (f.flatten(1) for f in factors)
            product = layer.product(first, second, gate.flatten(), "compiled").view_as(factors[0])
            result = _map(product, maps[2], layer.contract.bias)
            result[0].addmm_(scalars, layer.contract.weight[0].T)
            out[i * ATOMS : i * ATOMS + len(some)] = result.transpose(0, 1)
            ctx.kept.append(factors if keep else None)
        ctx.layer = layer
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,), layer = ctx.saved_tensors, ctx.layer
        if torch.is_grad_enabled():  # to be differentiated again
            y = x.view_as(x)
            return torch.autograd.grad(layer(y, "reference"), y, g, create_graph=True)[0], None
        maps, dx = layer.maps(), torch.empty_like(x)
        kept, ctx.kept = ctx.kept, [None] * len(ctx.kept)
        for i, (some, factors) in enumerate(zip(torch.split(x, ATOMS), kept, strict=True)):
            here = slice(i * ATOMS, i * ATOMS + len(some))
            dx[here] = _derivative(some, factors or _factors(some, maps), layer, maps, g[here])
        return dx, None


def _factors(x: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return both factors of the product, [(lmax+1)^2, N, F] each."""
    into, bias, out_of = maps
    turned, width = x.transpose(0, 1).contiguous(), out_of.shape[2]
    return _map(turned, into[:, :width], bias[:width]), _map(turned, into[:, width:], bias[width:])


def _map(x: Tensor, matrices: Tensor, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """Return x [(lmax+1)^2, N, inputs] times the matrix of each degree, [outputs, inputs], or its transpose."""
    out = x.new_empty(*x.shape[:2], matrices.shape[2 if transposed else 1])
    for l, matrix in enumerate(matrices):
        torch.mm(x[block(l)].flatten(0, 1), matrix if transposed else matrix.T, out=out[block(l)].flatten(0, 1))
    if bias is not None:
        out[0] += bias
    return out


def _derivative(x: Tensor, factors: tuple[Tensor, Tensor], layer: FeedForward, maps: tuple[Tensor, ...],
                g: Tensor) -> Tensor:
    """Return the derivative by x [N, (lmax+1)^2, C] of a block of atoms, given that by the result."""
    upstream = g.transpose(0, 1).contiguous()
    with torch.enable_grad():
        first, second = (f.detach().flatten(1).requires_grad_() for f in factors)
        scalar = x[:, 0].detach().requires_grad_()
        gate, scalars = layer.from_scalars(scalar)
        product = layer.product(first, second, gate.flatten(), "compiled")
    by_product = _map(upstream, maps[2], transposed=True).flatten(1)
    dfirst, dsecond, dscalar = torch.autograd.grad([product, scalars], [first, second, scalar],
                                                   [by_product, upstream[0] @ layer.contract.weight[0]])
    width = factors[0].shape[2]
    found = _map(dfirst.view_as(factors[0]), maps[0][:, :width], transposed=True)
    found += _map(dsecond.view_as(factors[1]), maps[0][:, width:], transposed=True)
    found[0] += dscalar
    return found.transpose(0, 1)

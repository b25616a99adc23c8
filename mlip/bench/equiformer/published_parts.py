"""Parts of EquiformerV3 as they are published: dense matrices, grids of points, a radial network for every edge."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from mlip.models.equiformer_v3.blocks import MergedLayerNorm, RadialNetwork
from mlip.models.equiformer_v3.feed_forward import FeedForward
from mlip.models.equiformer_v3.so2 import SO2Linear
from mlip.so3.degrees import degree_of_component
from mlip.so3.edge_frame import EdgeFrame
from mlip.so3.harmonics import harmonics

NORM_EPS = 1e-5


def points_of(lmax: int, mmax: int) -> tuple[int, int]:
    """Return the points along theta and phi of the grid that is exact for products: even numbers above 3l and 3m."""
    return 3 * lmax + 2 - lmax % 2, 3 * mmax + 2 - mmax % 2


def grid_matrices(lmax: int, mmax: int | None) -> tuple[Tensor, Tensor]:
    """Return the matrices to the points of the product grid and back, [P, M] and [M, P] float64.

    Args:
        lmax: largest degree.
        mmax: largest order of components in the order of `EdgeFrame`; None for all, degree by degree.
    """
    along, around = points_of(lmax, lmax if mmax is None else mmax)
    theta, phi = (np.arange(along) + 0.5) * pi / along, 2 * pi * np.arange(around) / around
    odd = 2 * np.arange(along // 2) + 1
    weights = 4 / along * np.sin(theta) * (np.sin(odd * theta[:, None]) / odd).sum(axis=1)
    sine, ones = np.sin(theta)[:, None], np.ones((1, around))
    points = np.stack([sine * np.sin(phi), np.cos(theta)[:, None] * ones, sine * np.cos(phi)], axis=-1)
    values, degree = harmonics(points.reshape(-1, 3), lmax), np.array(degree_of_component(lmax))
    norm = sqrt(4 * pi) / np.sqrt((2 * degree + 1) * (lmax + 1))
    to, back = values * norm, 2 * pi / around * np.repeat(weights, around)[:, None] * values / norm
    if mmax is not None:
        kept = kept_components(lmax, mmax)
        factors = lost_norm(lmax, mmax)
        to, back = to[:, kept] * factors, back[:, kept] * factors
    return torch.from_numpy(to), torch.from_numpy(np.ascontiguousarray(back.T))


def kept_components(lmax: int, mmax: int) -> NDArray[np.int64]:
    """Return the place of every kept component among all, [K]."""
    return np.array([l * l + l + m for l, m in EdgeFrame(lmax, mmax).kept()], dtype=np.int64)


def lost_norm(lmax: int, mmax: int) -> NDArray[np.float64]:
    """Return sqrt((2l+1)/(2 mmax+1)) for kept components of degrees above mmax, 1 for the others, [K]."""
    degree = EdgeFrame(lmax, mmax).degrees()
    factors: NDArray[np.float64] = np.sqrt(np.where(degree > mmax, (2 * degree + 1) / (2 * mmax + 1), 1.0))
    return factors


def map_components(x: Tensor, weight: Tensor, bias: Tensor, degree: Tensor) -> Tensor:
    """Return x [N, S, inputs] times the matrix weight[l] [outputs, inputs] of each component, plus a bias for l = 0."""
    out = torch.einsum("nsi,soi->nso", x, weight.index_select(0, degree))
    return torch.cat([out[:, :1] + bias, out[:, 1:]], dim=1)


def map_channels(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [..., inputs] times weight [outputs, inputs], as one product of two matrices.

    torch would take a batch of small products instead where the weights need no derivatives.
    """
    return linear(x.flatten(0, -2), weight).view(*x.shape[:-1], len(weight))


def merged_norm(x: Tensor, norm: MergedLayerNorm, degree: Tensor) -> Tensor:
    """Return the normalised features, [N, S, C]."""
    scalars = x[:, :1]
    x = torch.cat([scalars - scalars.mean(dim=2, keepdim=True), x[:, 1:]], dim=1)
    share = 1 / ((norm.lmax + 1) * (2 * degree + 1).to(x))
    variance = torch.einsum("nsc,s->nc", x.square(), share).mean(dim=1)
    x = x * torch.rsqrt(variance + NORM_EPS)[:, None, None] * norm.weight.index_select(0, degree)
    return torch.cat([x[:, :1] + norm.bias, x[:, 1:]], dim=1)


def radial_weights(network: RadialNetwork, basis: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
    """Return the output of a radial network for every edge, [E, outputs].

    Args:
        network: with its embeddings of elements.
        basis: [E, num_gaussians].
        sender: [E] int64, element at one end.
        receiver: [E] int64, at the other.
    """
    x = torch.cat([basis, network.source[sender], network.target[receiver]], dim=1)
    for layer, norm in ((network.hidden_1, network.norm_1), (network.hidden_2, network.norm_2)):
        x = silu(layer_norm(layer(x), norm.normalized_shape, norm.weight, norm.bias, NORM_EPS))
    out: Tensor = network.output(x)
    return out


class StackedSO2Linear(nn.Module):
    """The linear map around the edge with one matrix for each order, real part above imaginary part."""

    def __init__(self, ours: SO2Linear) -> None:
        super().__init__()
        self.order_0, self.extra, self.outputs = ours.order_0, ours.extra, ours.outputs
        self.lmax = ours.frame.lmax
        self.counts = [self.lmax + 1 - m for m in range(1, ours.frame.mmax + 1)]
        self.orders = nn.ParameterList(torch.cat([real.detach(), imaginary.detach()])
                                       for real, imaginary in zip(ours.real, ours.imaginary, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scalars [E, extra] and components [E, K, outputs] for x [E, K, inputs]."""
        edges, first = len(x), self.lmax + 1
        zero = self.order_0(x.narrow(1, 0, first).reshape(edges, -1))
        scalars, out = zero[:, : self.extra], [zero[:, self.extra :].reshape(edges, first, self.outputs)]
        for count, weight in zip(self.counts, self.orders, strict=True):
            both = map_channels(x.narrow(1, first, 2 * count).reshape(edges, 2, -1), weight)
            real, imaginary = both.chunk(2, dim=2)
            turned = torch.stack([real[:, 0] - imaginary[:, 1], real[:, 1] + imaginary[:, 0]], dim=1)
            out.append(turned.reshape(edges, 2 * count, self.outputs))
            first += 2 * count
        return scalars, torch.cat(out, dim=1)


class GridFeedForward(nn.Module):
    """The feed-forward network of an atom as a perceptron on the points of a grid."""

    to_grid: Tensor
    from_grid: Tensor
    degree: Tensor

    def __init__(self, ours: FeedForward) -> None:
        super().__init__()
        self.ours = ours
        to, back = grid_matrices(ours.lmax, None)
        self.register_buffer("to_grid", to.to(ours.factors.dtype))
        self.register_buffer("from_grid", back.to(ours.factors.dtype))
        self.register_buffer("degree", torch.tensor(degree_of_component(ours.lmax)))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        w, scalars = self.ours, x[:, 0]
        hidden = map_components(x, w.expand.weight, w.expand.bias, self.degree)
        on_grid = torch.einsum("ps,nsf->npf", self.to_grid, hidden)
        first, second = map_channels(on_grid, w.factors).chunk(2, dim=2)
        mixed = map_channels(first * torch.sigmoid(w.gate(scalars)).unsqueeze(1) * second, w.mix)
        hidden = torch.einsum("sp,npf->nsf", self.from_grid, mixed)
        p, q = w.scalars(scalars).chunk(2, dim=1)
        hidden = torch.cat([hidden[:, :1] + (silu(p) * q).unsqueeze(1), hidden[:, 1:]], dim=1)
        return map_components(hidden, w.contract.weight, w.contract.bias, self.degree)

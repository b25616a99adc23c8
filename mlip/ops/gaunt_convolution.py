"""The Gaunt product of features with filters that are symmetric around the directions of edges."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.ops.backend import Backend
from mlip.ops.edge_convolution import Edges, edge_convolution
from mlip.ops.gaunt import gaunt_product, scaled
from mlip.ops.harmonics import spherical_harmonics
from mlip.ops.signals import degree, degree_out
from mlip.ops.sparse_product import sparse_product
from mlip.ops.sphere_tables import Form, component_degrees
from mlip.ops.wigner import from_polar_axis, wigner_matrices
from mlip.so3.degrees import Paths, size

FRAMES = ("laboratory", "aligned")


def gaunt_filter(x: Tensor, vectors: Tensor, weights: Tensor, l_out: int | None = None, frame: str = "laboratory",
                 backend: Backend = "auto") -> Tensor:
    """Return the product of the signal of each edge with the filter sum_lm w_l Y_lm(r) Y_lm.

    In component normalisation (Luo et al., ICLR 2024, section 3). In the frame of the edge, where its direction is
    the polar axis, the filter has components m = 0 only and the product does not mix orders m; the result is the same.

    Args:
        x: [E, C, (l1+1)^2].
        vectors: r, [E, 3], none of length zero.
        weights: w, [E, C, l2+1].
        l_out: largest degree of the result; by default l1 + l2.
        frame: one of `FRAMES`: whether features are turned into the frame of the edge and back.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [E, C, (l_out+1)^2]; differentiable any number of times.

    Raises:
        OptionError: unknown options, sizes that do not fit.
    """
    l1, l2 = degree(x), weights.shape[-1] - 1
    l3 = degree_out(l_out, l1 + l2)
    if x.ndim != 3 or vectors.shape != (len(x), 3) or weights.shape[:-1] != x.shape[:-1] or l2 < 0:
        raise OptionError(f"x {tuple(x.shape)}, vectors {tuple(vectors.shape)} and weights {tuple(weights.shape)} do "
                          "not fit each other; they must be [E, C, (l1+1)^2], [E, 3] and [E, C, l2+1]")
    if frame not in FRAMES:
        raise OptionError(f"frame {frame!r} is unknown; allowed: {', '.join(FRAMES)}")
    if frame == "laboratory":
        harmonics = spherical_harmonics(vectors, l2, backend).unsqueeze(1).expand(*x.shape[:-1], -1)
        return gaunt_product(x, scaled(harmonics, weights), l3, "component", backend=backend)
    matrices = wigner_matrices(from_polar_axis(vectors), max(l1, l3))
    aligned = x @ matrices[:, : size(l1), : size(l1)]
    zonal = sparse_product(aligned.mT, _zonal(weights).mT, Form("zonal", l1, l2, l3, "component"), backend).mT
    return zonal @ matrices[:, : size(l3), : size(l3)].mT


def _zonal(weights: Tensor) -> Tensor:
    """Return the components [..., (l2+1)^2] of filters in the frame of their edge."""
    lmax = weights.shape[-1] - 1
    degrees = component_degrees(lmax, weights)
    order = torch.arange(size(lmax), device=weights.device) - degrees * (degrees + 1)
    return weights.index_select(-1, degrees) * (2 * degrees + 1).to(weights).sqrt() * (order == 0)


def gaunt_convolution(features: Tensor, harmonics: Tensor, weights: Tensor, edges: Edges, l_out: int,
                      backend: Backend = "auto") -> Tensor:
    """Return the sum over the edges of each receiver of `gaunt_filter` of the features of their senders.

    Fused: nothing is kept for an edge.

    Args:
        features: [N, (l1+1)^2, C].
        harmonics: Y of each edge, [E, (l2+1)^2], component-normalised.
        weights: [K, l2+1, C].
        edges: E edges to R receivers.
        l_out: largest degree of the messages, at most l1 + l2.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [R, (l_out+1)^2, C]; differentiable any number of times.

    Raises:
        OptionError: sizes that do not fit.
    """
    l1, l2 = degree(features.mT, "features"), degree(harmonics, "harmonics")
    paths = Paths.all(l1, l2, degree_out(l_out, l1 + l2), gaunt=True)
    if weights.ndim != 3 or weights.shape[1:] != (l2 + 1, features.shape[-1]):
        raise OptionError(f"weights {tuple(weights.shape)} do not fit features {tuple(features.shape)} and harmonics "
                          f"{tuple(harmonics.shape)}; they must be [K, {l2 + 1}, {features.shape[-1]}]")
    weights = weights[:, : paths.weights]  # higher degrees do not reach the result
    messages = edge_convolution(features, harmonics, weights, edges, paths, backend)
    return torch.cat([message.squeeze(2) for message in messages], dim=1)

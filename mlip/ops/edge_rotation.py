"""Features rotated into the frames of edges, and messages rotated back and summed on receivers."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from mlip.ops._library import LIBRARY
from mlip.ops.backend import Backend, use_compiled
from mlip.ops.tables import MAKERS, Numbers, constants
from mlip.ops.trilinear import register_trilinear
from mlip.so3.degrees import block
from mlip.so3.edge_frame import EdgeFrame


def rotate_to_edges(features: Tensor, wigner: Tensor, radial: Tensor, sender: Tensor, receiver: Tensor, row: Tensor,
                    lmax: int, mmax: int, backend: Backend = "auto") -> Tensor:
    """Return the features of both atoms of each edge in the frame of the edge, weighted for each degree and channel.

    out[e, k, c] = radial[row[e], l(k), c] (D_e x[sender[e]])_k[c] and
    out[e, k, C+c] = radial[row[e], l(k), C+c] (D_e x[receiver[e]])_k[c] (the rotations of Passaro & Zitnick,
    ICML 2023). S = (lmax+1)^2; K, Q, the order of k and that of the entries of D are
    those of `mlip.so3.edge_frame.EdgeFrame`.

    Args:
        features: x, [N, S, C].
        wigner: D, [E, Q], see `packing_index`.
        radial: [R, lmax+1, 2C], first the weights of the senders.
        sender: [E] int64.
        receiver: [E] int64, in any order; ascending is fastest.
        row: [E] int64, the row of `radial` of each edge; the two edges of a pair may share one.
        lmax: largest degree, up to 24 in the compiled form.
        mmax: largest order that is kept.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [E, K, 2C]; differentiable by `features`, `wigner` and `radial` any number of times.

    Raises:
        OptionError: unless 0 <= mmax <= lmax.
        RuntimeError: sizes or indices that do not fit each other.
    """
    frame = EdgeFrame(lmax, mmax)
    if use_compiled(backend, features, wigner, radial):
        return torch.ops.mlip.rotate_to_edges(  # type: ignore[no-any-return]
            features, wigner, radial, sender, receiver, row, lmax, mmax)
    channels, (degrees, _, inverse, _) = features.shape[2], _tables(frame, features)
    both = torch.cat([_to_frame(features.index_select(0, index), wigner, frame).index_select(1, inverse)
                      for index in (sender, receiver)], dim=2)
    weights = radial.index_select(0, row).index_select(1, degrees)
    if weights.shape[2] != 2 * channels:
        raise RuntimeError(f"radial has {weights.shape[2]} channels, the features {channels}: twice as many are needed")
    return both * weights


def rotate_from_edges(values: Tensor, wigner: Tensor, weights: Tensor, offsets: Tensor, lmax: int, mmax: int,
                      backend: Backend = "auto") -> Tensor:
    """Return the sums on receivers of weighted values that are rotated back from the frames of edges.

    out[i] = sum over e in offsets[i]..offsets[i+1] of f_l D_e^T (weights[e, h(c)] values[e, :, c]). The heads h are
    consecutive groups of channels of equal size. f_l = sqrt((2l+1)/(2 mmax+1)) for l > mmax, else 1, makes up for
    the orders that are left out.

    Args:
        values: [E, K, V], as `rotate_to_edges` orders components.
        wigner: D, [E, Q].
        weights: [E, H]; H divides V.
        offsets: [n+1] int64, the edges of each receiver; from 0 to E, ascending.
        lmax: largest degree, up to 24 in the compiled form.
        mmax: largest order in `values`.
        backend: one of `mlip.ops.backend.BACKENDS`.

    Returns:
        [n, S, V]; differentiable by `values`, `wigner` and `weights` any number of times.

    Raises:
        OptionError: unless 0 <= mmax <= lmax.
        RuntimeError: sizes or indices that do not fit each other.
    """
    frame = EdgeFrame(lmax, mmax)
    if use_compiled(backend, values, wigner, weights):
        return torch.ops.mlip.rotate_from_edges(values, wigner, weights, offsets, lmax, mmax)  # type: ignore[no-any-return]
    edges, components, channels = values.shape
    heads = weights.shape[1]
    places = _tables(frame, values)[1]
    weighted = (values.reshape(edges, components, heads, channels // heads) * weights[:, None, :, None]).flatten(2)
    turned = _from_frame(weighted.index_select(1, places), wigner, frame)
    receiver = torch.searchsorted(offsets, torch.arange(edges, device=offsets.device), right=True) - 1
    return turned.new_zeros(offsets.shape[0] - 1, *turned.shape[1:]).index_add(0, receiver, turned)


def packing_index(lmax: int, mmax: int, like: Tensor) -> Tensor:
    """Return where the entries of a packed matrix stand in a dense one, [Q] int64 on the device of `like`.

    With D of `mlip.ops.wigner_matrices`, or any [E, S, S] whose rows are components of the frame of an edge,
    `D.flatten(1).index_select(1, packing_index(lmax, mmax, D))` is the argument `wigner`.
    """
    return _tables(EdgeFrame(lmax, mmax), like)[3]


# ---- by blocks of edges: compiled only, not differentiable ---------------------------------------------------------

def to_edges(features: Tensor, wigner: Tensor, radial: Tensor, sender: Tensor, receiver: Tensor, row: Tensor,
             lmax: int, mmax: int, out: Tensor) -> None:
    """Write `rotate_to_edges` into a buffer.

    Args:
        features: as for `rotate_to_edges`, like all that follow.
        wigner: [E, Q].
        radial: [R, lmax+1, 2C].
        sender: [E].
        receiver: [E].
        row: [E].
        lmax: largest degree.
        mmax: largest order.
        out: [E, K, 2C], contiguous; overwritten.
    """
    torch.ops.mlip.rotate_to_edges_into(features, wigner, radial, sender, receiver, row, lmax, mmax, out)


def to_edges_backward(g: Tensor, features: Tensor, wigner: Tensor, radial: Tensor, sender: Tensor, receiver: Tensor,
                      row: Tensor, lmax: int, mmax: int, dfeatures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives by the matrices and by the radial weights of each edge; add those by features.

    Args:
        g: [E, K, 2C], the gradient of what is differentiated, by the result of `rotate_to_edges`.
        features: as for `rotate_to_edges`, like all that follow.
        wigner: [E, Q].
        radial: [R, lmax+1, 2C].
        sender: [E].
        receiver: [E].
        row: [E].
        lmax: largest degree.
        mmax: largest order.
        dfeatures: [N, S, C], contiguous; the derivatives are added to it.

    Returns:
        [E, Q] and [E, lmax+1, 2C]: that by a row of `radial` is the sum over the edges that have it.
    """
    return torch.ops.mlip.rotate_to_edges_backward_into(  # type: ignore[no-any-return]
        features, wigner, radial, g, sender, receiver, row, lmax, mmax, dfeatures)


def from_edges(values: Tensor, wigner: Tensor, weights: Tensor, offsets: Tensor, lmax: int, mmax: int) -> Tensor:
    """Return `rotate_from_edges`, [n, S, V]."""
    return torch.ops.mlip.rotate_from_edges(values, wigner, weights, offsets, lmax, mmax)  # type: ignore[no-any-return]


def from_edges_backward(g: Tensor, values: Tensor, wigner: Tensor, weights: Tensor, offsets: Tensor, lmax: int,
                        mmax: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives of `rotate_from_edges` by values, matrices and weights.

    Args:
        g: [n, S, V], the gradient of what is differentiated, by the result.
        values: as for `rotate_from_edges`, like all that follow.
        wigner: [E, Q].
        weights: [E, H].
        offsets: [n+1].
        lmax: largest degree.
        mmax: largest order.

    Returns:
        [E, K, V], [E, Q] and [E, H].
    """
    return torch.ops.mlip.rotate_from_edges_backward(  # type: ignore[no-any-return]
        values, wigner, weights, g, 7, offsets, lmax, mmax)


# ---- plain torch ----------------------------------------------------------------------------------------------------

def _to_frame(x: Tensor, wigner: Tensor, frame: EdgeFrame) -> Tensor:
    """Return D x, [E, K, C], degree after degree."""
    return torch.cat([matrix @ x[:, block(l)] for l, matrix in enumerate(_matrices(wigner, frame))], dim=1)


def _from_frame(x: Tensor, wigner: Tensor, frame: EdgeFrame) -> Tensor:
    """Return f_l D^T x, [E, S, C], for x degree after degree."""
    matrices, kept = _matrices(wigner, frame), 2 * frame.mmax + 1
    parts = torch.split(x, [m.shape[1] for m in matrices], dim=1)
    return torch.cat([sqrt(max(1.0, (2 * l + 1) / kept)) * (matrix.mT @ part)
                      for l, (matrix, part) in enumerate(zip(matrices, parts, strict=True))], dim=1)


def _matrices(wigner: Tensor, frame: EdgeFrame) -> list[Tensor]:
    return [wigner[:, entries].reshape(wigner.shape[0], len(frame.rows(l)), 2 * l + 1)
            for l, entries in enumerate(frame.blocks())]


def _tables(frame: EdgeFrame, like: Tensor) -> tuple[Tensor, ...]:
    """Return degrees of kept components [K], places of rows of the blocks [K], their inverse [K], the packing [Q]."""
    return constants("edge_frame", frame.lmax, frame.mmax, dtype=like.dtype, device=like.device)


def _edge_frame(lmax: int, mmax: int) -> Numbers:
    frame = EdgeFrame(lmax, mmax)
    places = frame.places()
    return frame.degrees(), places, places.argsort(), frame.packing()


MAKERS["edge_frame"] = _edge_frame


# ---- the operators as torch sees them -------------------------------------------------------------------------------

def _register() -> None:
    fake: Callable[[str], Callable[..., Any]] = torch.library.register_fake

    def to_edges_shape(x: Tensor, wigner: Tensor, radial: Tensor, sender: Tensor, receiver: Tensor, row: Tensor,
                       lmax: int, mmax: int) -> Tensor:
        return x.new_empty(wigner.shape[0], EdgeFrame(lmax, mmax).components, radial.shape[2])

    def from_edges_shape(values: Tensor, wigner: Tensor, weights: Tensor, offsets: Tensor, lmax: int,
                         mmax: int) -> Tensor:
        return values.new_empty(offsets.shape[0] - 1, (lmax + 1) ** 2, values.shape[2])

    register_trilinear("rotate_to_edges", to_edges_shape)
    register_trilinear("rotate_from_edges", from_edges_shape)

    @fake("mlip::rotate_to_edges_into")
    def _(*arguments: Any) -> None:
        return None

    @fake("mlip::rotate_to_edges_backward_into")
    def _(x: Tensor, wigner: Tensor, radial: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return (torch.empty_like(wigner, memory_format=torch.contiguous_format),
                radial.new_empty(wigner.shape[0], *radial.shape[1:]))


if LIBRARY.path is not None:
    _register()
